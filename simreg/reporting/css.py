"""How the page looks, on a screen of any width and on paper."""

STYLE = """\
:root { --ink: #1b1f24; --soft: #57606a; --line: #d0d7de; --tint: #f6f8fa; --link: #0550ae; --warn: #9a4a00; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 66rem; background: #fff; color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Helvetica Neue", "Noto Sans", Arial, sans-serif; }
h1, h2, h3, h4 { line-height: 1.25; overflow-wrap: anywhere; }
h1 { font-size: 1.9rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h2 { font-size: 1.4rem; margin: 3rem 0 .8rem; padding-top: .9rem; border-top: 2px solid var(--ink); }
h3 { font-size: 1.12rem; margin: 2rem 0 .5rem; }
h4 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
.secno { color: var(--soft); font-weight: 400; margin-right: .35em; }
.subtitle { color: var(--soft); margin: 0; overflow-wrap: anywhere; }
p, ul, dl { max-width: 46rem; margin: .6rem 0; overflow-wrap: anywhere; }
li { margin: .2rem 0; }
a { color: var(--link); }
a:focus-visible, .scroll:focus-visible, summary:focus-visible { outline: 2px solid var(--link); outline-offset: 2px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { position: static; }
nav { margin: 1.5rem 0 0; padding: .9rem 1.2rem; background: var(--tint); border-radius: 6px; }
nav h2 { font-size: .95em; margin: 0 0 .3rem; padding: 0; border: 0; }
nav ol { margin: 0; padding: 0; list-style: none; counter-reset: part; columns: 17rem; column-gap: 2.5rem; }
nav ol ol { columns: auto; margin: 0 0 .2rem 1.6rem; font-size: .9em; }
nav li { counter-increment: part; margin: .1rem 0; break-inside: avoid; overflow-wrap: anywhere; }
nav > ol > li::before { content: counter(part) "\\2002"; color: var(--soft); }
nav a { text-decoration: none; }
nav a:hover { text-decoration: underline; }
.note, .warning { padding: .55rem .9rem; border-left: 4px solid var(--line); background: var(--tint); }
.warning { border-left-color: var(--warn); background: #fff6ec; }
.warning strong { color: var(--warn); }
dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr)); gap: .1rem 2rem;
  max-width: none; }
dl.facts div { display: flex; gap: .7rem; padding: .28rem 0; border-bottom: 1px solid #eaeef2; }
dt { flex: 0 0 10rem; color: var(--soft); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.tablebox { margin: 1rem 0 1.5rem; }
.scroll { overflow-x: auto; max-width: 100%; }
table { border-collapse: collapse; font-size: .875rem; line-height: 1.35; }
.caption { font-size: .9em; margin: 0 0 .45rem; }
.tablenote { color: var(--soft); }
th, td { padding: .38rem .75rem; text-align: left; vertical-align: top; border-bottom: 1px solid #e4e8ec; }
thead th { border-bottom: 1.5px solid var(--ink); border-top: 1.5px solid var(--ink); font-weight: 600;
  vertical-align: bottom; max-width: 14rem; }
thead th { text-align: right; }
thead th.text, thead th:first-child { text-align: left; }
tbody th { font-weight: 500; min-width: 9rem; max-width: 19rem; }
thead th:first-child, tbody th[scope=row] { position: sticky; left: 0; background: #fff; z-index: 1; }
tr.group th span { position: sticky; left: .75rem; }
tbody:last-child tr:last-child > * { border-bottom: 1.5px solid var(--ink); }
tr.group th { background: var(--tint); font-weight: 600; color: var(--soft); padding-top: .45rem; max-width: none; }
td { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td.text, td.good, td.bad { text-align: left; white-space: normal; min-width: 9.5rem; max-width: 30rem; }
td:nth-child(2):last-child, td.text:nth-child(3):nth-last-child(2) { max-width: 44rem; }
td.missing { color: var(--soft); white-space: normal; min-width: 7.5rem; max-width: 15rem; font-style: italic; }
td.left { text-align: left; }
td.number .detail { display: inline; margin-left: .45em; }
.wide td.number .detail { display: block; margin: 0; }
.wide td.good, .wide td.bad { min-width: 0; white-space: nowrap; }
.wide td.text, .wide td.missing { min-width: 6rem; }
td.missing[colspan] { text-align: left; max-width: none; }
td[colspan] .detail { display: inline; margin-left: .5em; }
td.shaded { background: rgba(222, 133, 60, calc(var(--shade) * .75)); }
.shaded .detail { color: var(--ink); }
td.good { color: #12633f; }
td.bad { color: var(--warn); font-weight: 600; }
.detail { display: block; color: var(--soft); font-size: .92em; font-weight: 400; font-style: normal; }
td.text .detail, td.bad .detail { margin-top: .15rem; }
.beside { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 2.5rem; }
.beside > * { min-width: 0; max-width: 100%; }
.beside .caption, .beside figcaption, .beside .legend { width: 0; min-width: 100%; }
@media (min-width: 66rem) {
  .tablebox.wide { position: relative; left: 50%; transform: translateX(-50%); width: max-content; min-width: 100%;
    max-width: calc(100vw - 3.5rem); }
  .tablebox.wide .caption { width: 0; min-width: 100%; }
}
figure { margin: 1.3rem 0 .5rem; }
figcaption { font-size: .9em; max-width: 46rem; margin-top: .4rem; overflow-wrap: anywhere; }
.panels { display: flex; flex-wrap: wrap; gap: .9rem 1.1rem; }
.panel { flex: 0 1 auto; min-width: 0; }
.panel-title { margin: 0 0 .15rem; font-size: .85em; font-weight: 600; line-height: 1.25; overflow-wrap: anywhere; }
.panel.tiny { width: 11.4rem; } .panel.small { width: 20.1rem; } .panel.medium { width: 28rem; }
.panel.large { width: 38rem; }
.panel svg { display: block; width: 100%; height: auto; }
.panel.tiny .panel-title { font-size: .78em; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: "DejaVu Sans", Verdana, "Noto Sans", Arial, Helvetica, sans-serif; }
.legend { display: flex; flex-wrap: wrap; gap: .15rem 1.3rem; list-style: none; padding: 0; margin: 0 0 .6rem;
  max-width: none; font-size: .85em; }
.legend li { display: flex; align-items: center; gap: .4rem; margin: 0; min-width: 0; }
.legend span { overflow-wrap: anywhere; min-width: 0; }
.swatch { width: 30px; height: 12px; flex: none; }
details { margin: .1rem 0 1.4rem; font-size: .9em; }
summary { cursor: pointer; color: var(--link); }
footer { margin-top: 3rem; border-top: 1px solid var(--line); color: var(--soft); font-size: .85rem; }
@media (max-width: 40rem) {
  body { padding: 1.2rem .9rem 3rem; }
  h1 { font-size: 1.5rem; }
  h2 { font-size: 1.25rem; margin-top: 2.2rem; }
  .panel.small, .panel.medium, .panel.large { width: 100%; }
  .panel.tiny { width: calc(50% - .55rem); }
  th, td { padding: .35rem .5rem; }
  td.number .detail { display: block; margin: 0; }
  tbody th, thead th:first-child { min-width: 6.5rem; max-width: 8.5rem; }
  dl.facts div { flex-direction: column; gap: 0; }
  dt { flex: none; font-size: .85rem; }
}
@page { size: A4; margin: 16mm 14mm 18mm; }
@media print {
  :root { --ink: #000; --soft: #333; --line: #777; --tint: #fff; --link: #000; --warn: #000; }
  body { font-size: 9.5pt; line-height: 1.4; max-width: none; padding: 0; color: #000; }
  h1 { font-size: 18pt; } h2 { font-size: 13.5pt; margin-top: 1.4rem; } h3 { font-size: 11pt; margin-top: 1rem; }
  h1, h2, h3, h4, .caption, .panel-title, .legend { break-after: avoid; }
  nav { border: 1px solid #777; padding: .5rem .8rem; }
  .skip, details { display: none; }
  a { text-decoration: none; }
  p, li { orphans: 3; widows: 3; }
  .beside { display: block; }
  .tablebox { margin: .6rem 0 .9rem; }
  .scroll { overflow: visible; }
  thead th:first-child, tbody th[scope=row], tr.group th span { position: static; }
  table { font-size: 7.8pt; width: auto; max-width: 100%; }
  th, td { padding: .2rem .4rem; }
  .tablebox.wide { position: static; transform: none; width: auto; max-width: 100%; }
  .wide table { font-size: 6.4pt; }
  .wide th, .wide td { padding: .15rem .2rem; min-width: 0; }
  .wide td.number .detail { white-space: nowrap; }
  .wide td.good, .wide td.bad { white-space: normal; }
  thead { display: table-header-group; }
  tr, .short, .panel, dl.facts div, .note, .warning { break-inside: avoid; }
  tr.group { break-after: avoid; }
  tbody th { min-width: 0; } td, thead th { white-space: normal; }
  td.text, td.good, td.bad, td.missing { min-width: 0; }
  td.good, td.bad { color: #000; }
  figure { break-inside: avoid; margin: .7rem 0; }
  .panels { gap: .5rem .8rem; }
  .panel.small { width: 31.5%; } .panel.medium { width: 48%; } .panel.large { width: 76%; }
  .panel.tiny { width: 18.4%; }
  .note, .warning { border: 1px solid #777; border-left: 3px solid #000; background: #fff; }
  tr.group th { background: #fff; }
}
"""
