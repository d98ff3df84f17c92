"""How a page looks: on light and on dark, on wide screens and narrow ones, and on paper."""

STYLE = """
:root {
  color-scheme: light dark;
  --text: #1c2330; --quiet: #5d6779; --page: #f5f6f9; --card: #ffffff; --line: #e1e5ec; --stripe: #f8f9fb;
  --accent: #2f5fd0; --soft: #eaf0fe; --shadow: 0 1px 2px rgb(20 30 60 / 6%), 0 6px 24px rgb(20 30 60 / 5%);
}
@media (prefers-color-scheme: dark) {
  :root {
    --text: #e4e8f0; --quiet: #98a2b5; --page: #11141a; --card: #191d26; --line: #2b313e; --stripe: #1d222c;
    --accent: #8db0ff; --soft: #1e2a45; --shadow: none;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--page); color: var(--text); overflow-wrap: anywhere;
  font: 16px/1.6 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
}
nav {
  position: sticky; top: 0; z-index: 1; display: flex; gap: .25rem; overflow-x: auto; padding: .6rem 1rem;
  background: var(--card); border-bottom: 1px solid var(--line);
}
@media (min-width: 78rem) { nav { padding-inline: calc((100vw - 74rem) / 2); } }
nav a {
  flex: none; padding: .2rem .7rem; border-radius: 999px; color: var(--quiet); font-size: .875rem;
  text-decoration: none;
}
nav a:hover, nav a:focus-visible { background: var(--soft); color: var(--accent); }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1rem 5rem; }
h1, h2, h3 { line-height: 1.25; letter-spacing: -.01em; text-wrap: balance; }
h1 { margin: 0 0 .75rem; font-size: clamp(1.75rem, 4vw, 2.4rem); letter-spacing: -.02em; }
h2 { margin: 0 0 1rem; font-size: 1.4rem; }
h3 { margin: 0 0 .75rem; font-size: 1.08rem; }
p, li { max-width: 78ch; }
p { margin: 0 0 1rem; text-wrap: pretty; }
p:has(> img) { max-width: none; }
a { color: var(--accent); }
.level-2 {
  margin-top: 1.5rem; padding: clamp(1rem, 3vw, 1.9rem); background: var(--card);
  border: 1px solid var(--line); border-radius: 14px; box-shadow: var(--shadow);
}
.level-2 > :last-child { margin-bottom: 0; }
.level-3 { margin-top: 1.5rem; padding-top: 1.5rem; border-top: 1px solid var(--line); }
.level-1 > .level-2:first-of-type { border-left: 5px solid var(--accent); }
ul { margin: 0 0 1rem; padding-left: 1.2rem; }
li { margin: .25rem 0; }
li::marker { color: var(--quiet); }
code {
  padding: .1em .35em; border-radius: 5px; background: var(--soft);
  font: .86em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace;
}
img {
  display: block; max-width: 100%; height: auto; margin: .25rem auto; padding: .5rem; border-radius: 10px;
  background: #fff; border: 1px solid var(--line);
}
.scroll {
  margin: 0 0 1rem; width: fit-content; max-width: 100%; overflow-x: auto; border: 1px solid var(--line);
  border-radius: 10px;
}
.scroll:focus-visible { outline: 2px solid var(--accent); }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .5rem .8rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { background: var(--stripe); color: var(--quiet); font-weight: 600; vertical-align: bottom; }
th, td { overflow-wrap: break-word; min-width: 4.5rem; max-width: 24rem; }
td:first-child, th:first-child { min-width: 9rem; }
tbody tr:last-child td { border-bottom: 0; }
tbody tr:hover { background: var(--stripe); }
.number { text-align: right; }
td.number { white-space: nowrap; }
small { color: var(--quiet); font-size: .86em; }
.players {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 17rem), 1fr)); gap: .75rem;
  padding: 0; list-style: none;
}
.players li { margin: 0; max-width: none; }
figure {
  margin: 0; padding: .6rem .7rem .7rem; border: 1px solid var(--line); border-radius: 10px;
  background: var(--stripe);
}
figcaption { margin-bottom: .35rem; font-size: .875rem; font-weight: 600; }
audio { display: block; width: 100%; height: 40px; }
@media print {
  nav, audio { display: none; }
  body, .level-2 { background: none; box-shadow: none; }
  .level-2 { break-inside: avoid-page; border: 0; padding: 0; }
  .scroll { overflow: visible; }
}
"""
