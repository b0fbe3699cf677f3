"""The page's style sheet: light and dark by the reader's system, and on paper."""

CSS = """
:root { color-scheme: light dark;
  --paper: #fcfbf8; --card: #ffffff; --ink: #1f2328; --soft: #5b6470; --line: #e3dfd7;
  --kept: #3f74a8; --kept-soft: #3f74a826; --tokens: #1c8074; --good: #23733a; --bad: #b3261e;
  --warn: #8a5a00; --bad-soft: #b3261e14; --warn-soft: #b5790014; --track: #efece5;
  --c0: #d1785a; --c1: #c9a13b; --c2: #8a6fb0; --c3: #5d9e76; --c4: #bf6289; --c5: #4f9aa8;
  --c6: #9a7b58; --c7: #7f87c9; --rest: #9aa0a6; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #15181c; --card: #1c2025; --ink: #e7e5e0; --soft: #a0a7b0; --line: #31363d;
  --kept: #6fa3d8; --kept-soft: #6fa3d82e; --tokens: #4fbfae; --good: #6fc487; --bad: #f2877f;
  --warn: #e0b15a; --bad-soft: #f2877f1c; --warn-soft: #e0b15a1c; --track: #282d33;
  --c0: #e2917a; --c1: #d9b65c; --c2: #ab93cf; --c3: #7cba93; --c4: #d684a6; --c5: #70b6c3;
  --c6: #b99b79; --c7: #9aa2de; --rest: #7d838a; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
  font-variant-numeric: tabular-nums; }
main { max-width: 1080px; margin: 0 auto; padding: 40px 28px 64px; }
h1 { font-size: 30px; line-height: 1.2; font-weight: 650; letter-spacing: -.015em; margin: 0; }
h2 { font-size: 20px; font-weight: 650; letter-spacing: -.01em; margin: 0 0 4px; }
h3 { font-size: 15px; font-weight: 650; margin: 26px 0 6px; }
p { margin: 4px 0 12px; max-width: 76ch; }
section { margin-top: 52px; scroll-margin-top: 16px; }
.soft, .unit, caption { color: var(--soft); }
.small { font-size: 13px; }
code, pre { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
code { unicode-bidi: isolate; overflow-wrap: anywhere; }
pre { background: var(--track); border-radius: 6px; padding: 12px 14px; margin: 8px 0;
  overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
a { color: var(--kept); text-decoration: none; }
a:hover { text-decoration: underline; }
nav { display: flex; flex-wrap: wrap; gap: 4px 18px; margin-top: 18px; font-size: 13.5px; }
.head { display: flex; align-items: baseline; flex-wrap: wrap; gap: 6px 14px; }
.badge { font-size: 13px; font-weight: 600; padding: 2px 10px; border-radius: 99px;
  border: 1px solid currentColor; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); }
.facts { display: flex; flex-wrap: wrap; gap: 2px 22px; margin-top: 8px; color: var(--soft);
  font-size: 13.5px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 26px; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 14px 16px 12px; }
.tile b { display: block; font-size: 27px; line-height: 1.2; font-weight: 620;
  letter-spacing: -.02em; }
.tile .label { font-size: 13px; font-weight: 600; }
.tile .note { font-size: 12.5px; color: var(--soft); }
.box { border-radius: 10px; padding: 12px 16px; margin-top: 14px; border: 1px solid var(--line);
  overflow-wrap: anywhere; }
.box.bad { background: var(--bad-soft); border-color: var(--bad); color: var(--ink); }
.box.warn { background: var(--warn-soft); border-color: var(--warn); color: var(--ink); }
.box ul { margin: 4px 0; padding-left: 20px; }
.scroll { overflow-x: auto; }
.scroll table { min-width: 640px; }
.words { max-width: 560px; }
.words table { min-width: 0; }
.words td { white-space: normal; overflow-wrap: anywhere; }
.words td.num { min-width: 90px; }
.words td.name { min-width: 150px; }
table { border-collapse: collapse; width: 100%; font-size: 13.5px; margin: 10px 0; }
th { text-align: left; font-weight: 600; color: var(--soft); font-size: 12.5px; white-space: nowrap;
  vertical-align: bottom; }
th, td { padding: 5px 14px 5px 0; border-bottom: 1px solid var(--line); }
th:last-child, td:last-child { padding-right: 0; }
td { vertical-align: top; }
.num { text-align: right; white-space: nowrap; }
.name { white-space: nowrap; font-weight: 550; }
tr.inner td { border-bottom-style: dotted; color: var(--soft); }
tr.inner .name { font-weight: 400; padding-left: 16px; }
tr.group td { border-bottom-color: var(--soft); padding-top: 18px; font-weight: 600; }
.wide { min-width: 180px; width: 34%; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 7px; }
.meter { display: flex; height: 12px; margin-top: 4px; background: var(--track); border-radius: 3px; }
.meter.plain { background: none; }
.meter i { height: 100%; min-width: 2px; position: relative; }
.meter i:first-child { border-radius: 3px 0 0 3px; }
.funnel { margin-top: 20px; }
.floor { display: grid; grid-template-columns: 190px minmax(180px, 1fr) 300px; column-gap: 20px;
  min-height: 64px; }
.floor .who { text-align: right; padding-top: 1px; line-height: 1.3; overflow-wrap: anywhere; }
.floor .who small { display: block; color: var(--soft); font-size: 12px; }
.shape { display: flex; flex-direction: column; }
.bar { display: flex; height: 26px; }
.bar i { height: 100%; min-width: 2px; position: relative; display: block; }
.bar .keep { background: var(--kept); }
.bar .keep, .bar .tok { min-width: 1px; }
.bar .tok { background: var(--tokens); }
.bar .fail { background: var(--bad); }
.link { flex: 1; min-height: 20px; width: 100%; display: block; }
.link polygon { fill: var(--kept-soft); }
.goes { font-size: 12.5px; line-height: 1.45; padding: 3px 0 12px; }
.goes b { font-weight: 600; }
.goes span { white-space: nowrap; margin-right: 12px; display: inline-block; }
[data-tip]:hover::after, [data-tip]:focus-visible::after { content: attr(data-tip);
  position: absolute; left: 50%; bottom: calc(100% + 6px); transform: translateX(-50%);
  background: var(--ink); color: var(--paper); font: 12.5px/1.4 system-ui, sans-serif;
  padding: 4px 9px; border-radius: 5px; white-space: pre; z-index: 5; pointer-events: none; }
svg text { font: 12px system-ui, sans-serif; fill: var(--soft); }
svg .strong { fill: var(--ink); font-weight: 600; paint-order: stroke; stroke: var(--paper);
  stroke-width: 4px; stroke-linejoin: round; }
svg .grid { stroke: var(--line); }
svg .train { fill: none; stroke: var(--kept); stroke-width: 1.4; opacity: .75; }
svg .heldout { fill: none; stroke: var(--c0); stroke-width: 2.2; }
svg .dot { fill: var(--c0); stroke: var(--paper); stroke-width: 1.5; }
svg .spot rect { fill: transparent; }
svg .spot g { visibility: hidden; pointer-events: none; }
svg .spot:hover g { visibility: visible; }
svg .spot line { stroke: var(--soft); stroke-dasharray: 3 3; }
svg .spot g text { fill: var(--ink); }
svg .ideal { stroke: var(--soft); stroke-dasharray: 4 4; }
svg .bubble { fill: var(--kept); fill-opacity: .7; }
.plot { width: 100%; min-width: 620px; height: auto; display: block; margin-top: 8px; }
.pair { display: flex; flex-wrap: wrap; gap: 20px 48px; align-items: flex-start; }
.pair > * { flex: 1 1 300px; min-width: 0; }
.key i { display: inline-block; width: 18px; height: 0; border-top: 3px solid; vertical-align: middle;
  margin: 0 6px 2px 0; }
.key span { margin-right: 18px; }
details { margin-top: 10px; }
summary { cursor: pointer; color: var(--kept); font-size: 14px; }
.samples { margin: 0; }
.samples summary { color: inherit; font-size: inherit; }
.samples summary::marker { color: var(--soft); font-size: 11px; }
.samples div { white-space: normal; max-width: 440px; padding-left: 16px; }
footer { margin-top: 60px; border-top: 1px solid var(--line); padding-top: 14px; font-size: 13px;
  color: var(--soft); }
@media (max-width: 760px) { main { padding: 24px 16px 48px; }
  .floor { grid-template-columns: 1fr; row-gap: 4px; } .floor .who { text-align: left; }
  .floor .who small { display: inline; margin-left: 8px; } .link { min-height: 12px; } }
@media print { main { max-width: none; padding: 0; } nav { display: none; }
  body { font-size: 11pt; } * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  section { margin-top: 28px; } .floor, tr, .tile, svg { break-inside: avoid; }
  h2, h3 { break-after: avoid; } .scroll { overflow: visible; } }
"""
