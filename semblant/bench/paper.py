"""How the report looks: two papers, light and dark, one column of text, tables that scroll by themselves."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf7; --ink: #24262b; --soft: #666a73; --rule: #dcd9d0; --card: #fff; --accent: #b9472f;
  --text: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, serif;
  --plain: system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  --code: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace;
}
@media (prefers-color-scheme: dark) {
  :root { --paper: #17181b; --ink: #e9e7e2; --soft: #a0a4ac; --rule: #34363c; --card: #1f2024; --accent: #e98a6f }
}
* { box-sizing: border-box }
.caution { border-left: 4px solid var(--accent); padding-left: .8em }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 var(--text) }
main { max-width: 82rem; margin: 0 auto; padding: 3.5rem 1.5rem 5rem }
h1 { font-size: clamp(1.9rem, 4vw, 2.8rem); line-height: 1.12; font-weight: 600; margin: 0 0 .6rem }
h2 { font-size: 1.35rem; font-weight: 600; margin: 3.4rem 0 .4rem }
p { max-width: 44rem; margin: .4rem 0 1rem }
figcaption, caption, th { color: var(--soft) }
figcaption, caption, th, td, footer { font: .84rem/1.4 var(--plain) }
.wide { overflow-x: auto; margin: 1rem -1.5rem; padding: 0 1.5rem .6rem }
table { border-collapse: separate; border-spacing: 6px; margin-left: -6px }
caption { text-align: left; padding: 0 0 .4rem 8px }
th { font-weight: 500; text-align: left; vertical-align: bottom; padding: 0 2px 2px }
th.row { vertical-align: middle; min-width: 9rem; max-width: 10rem; padding-right: .6rem; color: var(--ink) }
thead th { width: 128px; min-width: 112px }
thead th:first-child { width: auto }
td { padding: 0; vertical-align: top }
img { display: block; width: 128px; height: 128px; border-radius: 5px; background: var(--rule) }
img.large { width: 262px; height: 262px; border-radius: 8px }
tr.truth img { outline: 2px solid var(--rule); outline-offset: 1px }
tr.truth th.row { color: var(--soft) }
.sitter { display: flex; flex-wrap: wrap; gap: 1.6rem; margin-top: 1.6rem }
figure { margin: 0 }
figcaption { margin-top: .5rem; max-width: 36rem }
.others { display: flex; flex-wrap: wrap; gap: 6px; max-width: 34rem }
table.numbers { border-collapse: collapse; border-spacing: 0; margin: 1rem 0 0 }
table.numbers th, table.numbers td {
  padding: .5rem 1rem .5rem 0; border-bottom: 1px solid var(--rule); vertical-align: top;
}
table.numbers td { font-variant-numeric: tabular-nums; font-size: .95rem }
table.numbers small { display: block; font-size: .75rem; font-weight: 400; max-width: 9rem }
td.best { font-weight: 700; color: var(--accent) }
.note { border-left: 3px solid var(--accent); padding: .1rem 0 .1rem 1rem }
svg { max-width: 100%; height: auto }
svg text { font: 12px var(--plain); fill: var(--soft) }
svg .grid { stroke: var(--rule) }
pre {
  background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 1rem 1.2rem; overflow-x: auto;
  font: .8rem/1.7 var(--code);
}
footer { margin-top: 4rem; padding-top: 1rem; border-top: 1px solid var(--rule); color: var(--soft) }
"""
