"""Six hundred names that would act, hide, or break something if a program let them."""

from __future__ import annotations

import random
from itertools import product

COUNT = 600
CANARY = "document.documentElement.dataset.canary=1"
"""What runs if a page lets it; :mod:`.names` looks for the mark."""

_TAGS = [
    ("img src=x", "onerror"), ("svg", "onload"), ("body", "onload"), ("details open", "ontoggle"), ("iframe", "onload"),
    ("input autofocus", "onfocus"), ("video><source", "onerror"), ("audio src=x", "onerror"), ("style", "onload"),
    ("object data=x", "onerror"), ("marquee", "onstart"), ("select autofocus", "onfocus"),
]  # fmt: skip
_CLOSES = [("", ""), ('">', '"'), ("'>", "'"), ("</td></tr></table>", "")]
_EVENTS = [f"{close}<{tag} {event}={quote}{CANARY}{quote}>" for (tag, event), (close, quote) in product(_TAGS, _CLOSES)]
_MARKUP = [
    f"<script>{CANARY}</script>", f"<SCRIPT\t>{CANARY}</SCRIPT >", f"<scr<script>ipt>{CANARY}</script>",
    f"</script><script>{CANARY}</script>", f"</style><script>{CANARY}</script>", f"</title><script>{CANARY}</script>",
    f"--><script>{CANARY}</script><!--", f"]]><script>{CANARY}</script>", f"<script src=data:,{CANARY}>",
    f"<svg><script>{CANARY}</script></svg>", f"</svg><img src=x onerror={CANARY}>",
    f"</text></svg><script>{CANARY}</script>", f"<svg><animate onbegin={CANARY} attributeName=x>",
    f"<math><mtext><mglyph><style><img src=x onerror={CANARY}>", f"<a href=javascript:{CANARY}>x</a>",
    f"javascript:{CANARY}", "<base href=//evil.example/>", "<!--", "-->", "<plaintext>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>", "<link rel=stylesheet href=//evil.example/x>",
    "<iframe src=//evil.example></iframe>", f"<iframe srcdoc='<script>parent.{CANARY}</script>'>",
    "<style>*{display:none}", "<template><p>", "<h1>big</h1><hr>", "</main></body></html>",
    f'" onmouseover="{CANARY}', f"' autofocus onfocus='{CANARY}'", '" style="position:fixed;inset:0', '" hidden="',
    '" class="skip', "{{ 7 * 7 }}", "{% raw %}", "{# x", "${7*7}", "<%= 7 %>", "&lt;script&gt;", "&#60;b&#62;",
    "&amp", "&#x110000;", "&notanentity;", "\\u003cscript\\u003e", "%3Cscript%3E", "<b", "&", '"', "'", "`", "<", ">",
    "\\", "/", "=",
]  # fmt: skip
_SEQUENCES = [
    "\x1b[31m", "\x1b[2J\x1b[H", "\x1b[1A\x1b[2K", "\x1b[8m", "\x1b]0;title\x07",
    "\x1b]8;;http://evil.example\x07link\x1b]8;;\x07", "\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\",
    "\x1b]52;c;ZXZpbA==\x07", "\x1bP+q544e\x1b\\", "\x1b_x\x1b\\", "\x1b^x\x1b\\", "\x1bc", "\x1b[?1049h", "\x1b[6n",
    "\x1b[>c", "\x1b#8", "\x1b(0", "\x9b31m", "\x9d0;title\x9c", "\x9d8;;http://evil.example\x9clink", "\x90x\x9c",
    "\x85", "\x84", "\x8e", "\x08\x08\x08\x08", "\x7f", "\x07", "\x0e", "\x00",
]  # fmt: skip
_UNSEEN = list(
    "\u061c\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff\u00ad\u180e"
    "\u3164\ufff9\ufffb\u2063\U000e0041\u034f\u115f"
)
_BREAKS = ["\n", "\r", "\r\n", "\v", "\f", "\x1c", "\x1e", "\x85", "\u2028", "\u2029"]
_ORDERS = [
    "::error::forged", "::warning file=a.py,line=1::forged", "::notice title=forged::all is well",
    "::set-output name=x::1", "::add-mask::secret", "::stop-commands::x", "##[error]forged",
    "##vso[task.complete result=Succeeded;]", "::group::x", "error: forged",
]  # fmt: skip
_FORMULAS = [
    "=1+1", '=HYPERLINK("http://evil.example")', "=cmd|' /C calc'!A0", "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)",
]  # fmt: skip
_LEADS = ["", " ", "\t", "\n", "\r", "\r\n", "\u00a0", "\ufeff", "'", '"', "\u200b"]
_MARKDOWN = [
    "[click](http://evil.example)", "![x](http://evil.example/x.png)", "<http://evil.example>",
    "http://evil.example/x", "www.evil.example", "https://evil.example", "[x][1]\n\n[1]: http://evil.example",
    "# title", "- item", "1. item", "> quote", "```\ncode", "~~~", "`code`", "**bold**", "__bold__", "~~gone~~",
    "a | b | c", "|---|", "<details><summary>x</summary>", "<!-- x", "@someone", "#1", "GH-1", "owner/name#1",
    ":tada:", "$x^2$", "$$x$$", "[^1]", "- [ ] task", "a\\", "***", "===", "---", "\\[x](http://evil.example)",
    "me@evil.example", "mailto:me@evil.example", "[x](javascript:alert(1))", "&#91;x&#93;", "a  \nb",
]  # fmt: skip
_OTHERS = [
    "]]>", "<![CDATA[x", "<?xml version='1.0'?>", "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "\ufffe", "\uffff", "\x01\x02\x03", "../../../etc/passwd", "..", ".", "~", "~root", "-rf", "--help", "--out=x",
    "$(id)", "`id`", ";id", "|id", "&id", "%s %d %n", "{0} {x} {", "%(x)s", "\\x1b[31m", "\\n::error::x", "NUL",
    "CON", "a:b", "*", "?", "[x]", "null", "None", "nan", "1e5", "0x10", "", " ", "   x   ", "\t", "\n", "漢字", "שלום",
    "العربية", "e\u0301", "👩\u200d👩\u200d👧", "Ｍｏｄｅｌ", "m\u043edel", "ﷺ", "𒐫", "a\u0300\u0301\u0302\u0303",
]  # fmt: skip
_LONG = [
    "W" * 3000, "i" * 3000, "漢" * 1000, "a " * 1500, "_" * 3000, "-" * 3000, "/" * 3000, "\n" * 500, " " * 3000 + "x",
    "<b>" * 1000, "\u0300" * 500 + "x", "x" + "\u0336\u0489" * 400, "\u202e" * 500, "\x1b[31m" * 500, "👩\u200d" * 500,
    "|" * 3000, "`" * 3000, "*" * 3000, "[" * 3000, "&amp;" * 600,
]  # fmt: skip
_LONE = ["\udcff", "a\udc80b", "\udcc3\udc28", "x\udced\udca0\udc80", "\udc9b31m", "\udcff\n::error::x"]
"""As Python shows bytes that are not UTF-8 in a name of a folder or an argument."""


def _placed(parts: list[str]) -> list[str]:
    return [text for part in parts for text in (f"{part}model", f"mo{part}del", f"model{part}")]


def names(seed: int) -> list[str]:
    """All of them; where the families have fewer, pairs of them joined."""
    orders = [f"x{line}{order}" for line, order in product(_BREAKS, _ORDERS)]
    formulas = [f"{lead}{formula}" for lead, formula in product(_LEADS, _FORMULAS)]
    families = (
        _EVENTS, _MARKUP, _placed(_SEQUENCES), _placed(_UNSEEN), orders, _ORDERS, formulas, _MARKDOWN, _OTHERS, _LONG,
        _LONE,
    )  # fmt: skip
    found = list(dict.fromkeys(text for family in families for text in family))
    rng = random.Random(f"names {seed}")
    while len(found) < COUNT:
        found.append(rng.choice(found) + rng.choice(_BREAKS) + rng.choice(found))
    return found[:COUNT]
