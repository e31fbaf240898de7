"""The page around a report: its style sheet and frame. Light, narrow, printable."""

import html

STYLE = """
:root { --ink: #1d2733; --soft: #5d6b7a; --line: #dfe5ec; --paper: #ffffff; --ground: #f4f6f9;
  --accent: #1f5fa8; --warm: #b4541a; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 32px 20px 64px; }
header h1 { margin: 0; font-size: 26px; font-weight: 650; letter-spacing: -0.01em; }
header p, .subtitle { margin: 2px 0 18px; color: var(--soft); }
section, details { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 18px 22px; margin: 18px 0; }
section section, section details, details details { border: 0; border-top: 1px solid var(--line);
  border-radius: 0; padding: 14px 0 0; margin: 16px 0 0; }
h2 { margin: 0 0 8px; font-size: 19px; } h3 { margin: 0 0 6px; font-size: 16px; }
h4 { margin: 14px 0 6px; font-size: 14px; color: var(--soft); font-weight: 600; }
summary { cursor: pointer; font-weight: 600; color: var(--soft); }
.cards { display: flex; flex-wrap: wrap; gap: 12px; margin: 12px 0 16px; }
.card { background: var(--paper); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 18px; min-width: 130px; }
.card b { display: block; font-size: 21px; font-weight: 650; color: var(--accent);
  font-variant-numeric: tabular-nums; }
.card span { color: var(--soft); font-size: 13px; }
.warning { border-left: 4px solid var(--warm); background: #fdf3ec; padding: 10px 14px; border-radius: 4px; }
.notices { background: #fffaf0; border: 1px solid #f0e2c4; border-radius: 8px; padding: 10px 14px 10px 32px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; margin: 10px 0; font-size: 13.5px; }
th { text-align: left; color: var(--soft); font-weight: 600; border-bottom: 2px solid var(--line);
  padding: 5px 14px 5px 0; vertical-align: bottom; }
td { border-bottom: 1px solid var(--line); padding: 5px 14px 5px 0; vertical-align: top; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
figure { margin: 0; } figcaption { color: var(--soft); font-size: 12.5px; margin-top: 3px; }
.plot { margin: 12px 0; } .plot svg { max-width: 100%; height: auto; }
.gallery { display: flex; flex-wrap: wrap; gap: 12px; margin: 6px 0 12px; }
.gallery img { display: block; width: 210px; max-width: 100%; border-radius: 6px;
  border: 1px solid var(--line); }
@media print { body { background: #fff; } section, .card { break-inside: avoid; } }
"""


def page(title: str, subtitle: str, body: str) -> str:
    """A whole HTML document."""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>"
        f"<header><h1>{html.escape(title)}</h1><p>{html.escape(subtitle)}</p></header>\n"
        f"{body}\n</main></body></html>\n"
    )
