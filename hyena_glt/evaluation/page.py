"""The frame of the report: one HTML page with its style, and places for what `report` writes into it."""

from __future__ import annotations

from string import Template

PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>$title</title>
<style>
:root {
  --page: #fbfaf7; --card: #ffffff; --tint: #e8f1f4; --rule: #e3e0d8; --bar: #c3c0b8;
  --ink: #23262b; --muted: #7d7b75; --first: #1f6f8b; --second: #c7642b;
  --third: #3d8a5c; --fourth: #8a5aa8; --fifth: #a8842b; --sixth: #b0476b;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #16181b; --card: #1e2125; --tint: #22333a; --rule: #34383d; --bar: #55585c;
    --ink: #e4e2dc; --muted: #96938c; --first: #63b3cf; --second: #e39563;
    --third: #74c08f; --fourth: #bd93d8; --fifth: #d6b45c; --sixth: #e0809f;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
}
main { max-width: 66rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin: 0 0 0.8rem; }
.subtitle { color: var(--muted); margin: 0.3rem 0 0; overflow-wrap: anywhere; }
.verdict {
  font-size: 1.2rem; line-height: 1.45; margin: 1.6rem 0; padding: 1rem 1.2rem;
  background: var(--tint); border-left: 4px solid var(--first); border-radius: 0 8px 8px 0;
}
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.5rem, 1fr)); gap: 0.75rem; margin: 0 0 1.6rem; }
.cards div {
  display: flex; flex-direction: column; padding: 0.7rem 0.9rem;
  background: var(--card); border: 1px solid var(--rule); border-radius: 8px;
}
.cards dd { margin: 0; font-size: 1.25rem; font-weight: 600; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.cards dt { color: var(--muted); font-size: 0.82rem; }
section { background: var(--card); border: 1px solid var(--rule); border-radius: 10px; padding: 1.2rem 1.3rem 1.3rem; margin: 0 0 1.2rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.4rem 1.8rem; align-items: start; }
figure { margin: 0; }
figure svg { display: block; width: 100%; height: auto; }
figure svg text { font-family: inherit !important; }
.stack { display: grid; gap: 1.4rem; }
figcaption { color: var(--muted); font-size: 0.85rem; margin-top: 0.3rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 0.9rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 0.32rem 0.9rem 0.32rem 0; border-bottom: 1px solid var(--rule); }
td { overflow-wrap: anywhere; }
th { color: var(--muted); font-weight: 500; }
td:first-child { overflow-wrap: normal; }
td.muted { color: var(--muted); }
tr.highlight td { color: var(--first); font-weight: 650; }
code, pre { font: 0.85rem/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
pre { margin: 0.8rem 0 0; padding: 0.8rem 1rem; overflow-x: auto; }
pre { background: var(--page); border: 1px solid var(--rule); border-radius: 8px; }
summary { cursor: pointer; }
a { color: var(--first); }
ul { margin: 0; padding-left: 1.2rem; }
p { margin: 0 0 0.9rem; overflow-wrap: anywhere; }
.advice li { margin: 0 0 0.5rem; }
.advice strong { font-weight: 600; }
figure + .scroll, .grid + .scroll { margin-top: 1.2rem; }
.note { color: var(--muted); font-size: 0.9rem; margin: 0.9rem 0 0; }
@media print { section { break-inside: avoid; } body { background: none; } }
</style>
</head>
<body>
<main>
<header>
<h1>$title</h1>
<p class="subtitle">$subtitle</p>
</header>
<p class="verdict">$verdict</p>
<dl class="cards">$cards</dl>
$body
</main>
</body>
</html>
""")
"""Takes title, subtitle, verdict, cards and body, all of them HTML."""
