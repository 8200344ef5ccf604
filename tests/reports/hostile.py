"""Six hundred strings, by class, that would act, break or hide if a page, a terminal, a CI log or a file let them.

Whatever would run in a page sets ``window.canary``.
"""

from __future__ import annotations

import re

RUN = "window.canary=1"

_SCRIPTS = [
    f"<script>{RUN}</script>",
    f"<SCRIPT >{RUN}</SCRIPT\t>",
    f"<scr<script>ipt>{RUN}</script>",
    f"<script src=data:,{RUN}>",
    f"</script><script>{RUN}</script>",
    f"</style><script>{RUN}</script>",
    f"</title><script>{RUN}</script>",
    f"</textarea><script>{RUN}</script>",
    f"--><script>{RUN}</script><!--",
    f"]]><script>{RUN}</script>",
    f"<script type=module>{RUN}</script>",
    f'<noscript><p title="</noscript><script>{RUN}</script>">',
    f"</pre></details></section></main><script>{RUN}</script>",
    f"\\u003cscript\\u003e{RUN}",
    f"%3Cscript%3E{RUN}%3C/script%3E",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&#60;script&#62;{RUN}",
    f"＜script＞{RUN}＜/script＞",
    f"<script/x>{RUN}</script>",
    f"'\"--></style></script><script>{RUN}</script>",
]
_EVENTS = [
    f"{close}<{tag} {event}={quote}{RUN}{quote}>"
    for tag, event in (
        ("img src=x", "onerror"),
        ("svg", "onload"),
        ("body", "onload"),
        ("details open", "ontoggle"),
        ("input autofocus", "onfocus"),
        ("video><source", "onerror"),
        ("marquee", "onstart"),
        ("select autofocus", "onfocus"),
        ("iframe", "onload"),
        ("div style='animation:x 1s'", "onanimationstart"),
        ("p tabindex=0 autofocus", "onfocus"),
        ("audio src=x", "onerror"),
        ("object data=x", "onerror"),
        ("style", "onload"),
    )
    for close, quote in (("", ""), ('">', '"'), ("'>", "'"))
]
_ATTRIBUTES = [
    f'" onmouseover="{RUN}',
    f"' onfocus='{RUN}' autofocus='",
    f"x` onclick=`{RUN}",
    f'"style="background:url(javascript:{RUN})',
    '" hidden="',
    '" class="skip',
    '" id="results',
    "' data-kinds='lost",
    '" aria-hidden="true',
    '"></td></tr></table>',
]
_URLS = [
    f"javascript:{RUN}",
    f"JaVaScRiPt:{RUN}",
    f"<a href=javascript:{RUN}>x</a>",
    f"data:text/html,<script>{RUN}</script>",
    "<img src=http://evil.example/x>",
    "<link rel=stylesheet href=//evil.example/x>",
    "<base href=//evil.example/>",
    "<meta http-equiv=refresh content='0;url=http://evil.example'>",
    f"<form action=javascript:{RUN}><button>x</button></form>",
    "@import url(//evil.example/x);",
    "url(//evil.example/x)",
    "http://evil.example/",
    "<iframe src=//evil.example></iframe>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'>",
    "<style>*{display:none}</style>",
    "</style><style>body{width:9999px}",
    f"<embed src=javascript:{RUN}>",
    f"vbscript:{RUN}",
    "<video poster=//evil.example/x>",
    "<image href=//evil.example/x>",
]
_TEMPLATES = [
    "{{ 7 * 7 }}",
    "{% raw %}",
    "{% endraw %}",
    "{{ config }}",
    "{{ runs }}",
    "{# comment",
    "{{ ''.__class__.__mro__ }}",
    "{% include '/etc/passwd' %}",
    "${7*7}",
    "#{7*7}",
    "<%= 7*7 %>",
    "<? echo 1 ?>",
    "{{constructor.constructor('x')()}}",
    "[[7*7]]",
    "@{7*7}",
    "%s %d %n %(x)s",
    "{0} {x}",
    "$\\frac{1}{0}$",
    "\\g<0> \\1 \\\\",
    "@0@ @1@ @99@",
]
_MARKUP = [
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x>",
    "<svg><style>*{fill:red}</style>",
    f"<svg><a xlink:href=javascript:{RUN}><text>x</text></a></svg>",
    f"<svg><foreignObject><img src=x onerror={RUN}>",
    f"</svg><img src=x onerror={RUN}>",
    f"</text></svg><script>{RUN}</script>",
    f"</title></svg><script>{RUN}</script>",
    f"<math><mtext><table><mglyph><style><img src=x onerror={RUN}>",
    f"<math href=javascript:{RUN}>x</math>",
    f"<math><annotation-xml encoding=text/html><script>{RUN}</script>",
    "<![CDATA[ x ]]>",
    "<?xml version='1.0'?>",
    "<!DOCTYPE x [<!ENTITY e SYSTEM 'file:///etc/passwd'>]>&e;",
    "<!--",
    "-->",
    "<!-- --!>",
    "</body></html>",
    "</main></footer>",
    "</table></table></div></div>",
    "<h1>broken</h1><hr><plaintext>",
    "<template><p>",
    "<frameset>",
    "<x-y is=z>",
    "<a name=results>",
    f"<template shadowrootmode=open><script>{RUN}</script></template>",
]
_ENTITIES = [
    "&",
    "&amp",
    "&amp;lt;",
    "&#x3c;",
    "&#0;",
    "&#xD800;",
    "&#x110000;",
    "&notanentity;",
    "&lt",
    "&NewLine;&Tab;&colon;",
    "&#00000000060;",
    "<",
    ">",
    '"',
    "'",
    "`",
    "=",
    "\\",
    "/",
    "<<<<<>>>>>",
]
_UNSEEN = [
    "right\u202eto left",
    "\u2066isolate",
    "\u2067\u2067\u2067",
    "\u202a\u202b\u202d open",
    "\u061cmark\u200e\u200f",
    "nul\x00nul",
    "\x00",
    "bell\x07 back\x08 escape\x1b[31m",
    "\x7f \x85 \x9b",
    "\u2028line\u2029paragraph",
    "zero\u200bwidth\u200b",
    "\ufeffbom",
    "\u2060join\u2064er",
    "tag \U000e0041\U000e007f",
    "\ufff9note\ufffb",
    "\ufffe\uffff",
    "lone \ud800 high",
    "lone \udfff low",
    "\udc00\ud800",
    "soft\u00adhyphen",
    "\u3164filler\u115f",
    "\u180emongol",
    "a\r\nb\rc\nd\te",
    "\v\f",
]
_LONG = [
    "W" * 3000,
    "\u0300" * 200 + "flood",
    "a" + "\u0336\u0489\u0e49" * 150,
    "漢" * 900,
    "ﷺ" * 120,
    "𒐫𒈙⸻" * 60,
    "👩\u200d👩\u200d👧\u200d👦" * 80,
    "שלום" * 200,
    "العربية " * 150,
    "_" * 800,
    "/" * 800,
    "-" * 800,
    "\n" * 400,
    "\t" * 300,
    " " * 500 + "end",
    "i" * 2000 + "<b>",
    "\u00a0" * 900,
    "1" * 1500,
]

_TERMINAL = [
    f"{opening}{text}{closing}"
    for opening, closing in (("\x1b]", "\x07"), ("\x1b]", "\x1b\\"), ("\x9d", "\x9c"))
    for text in (
        "0;title", "2;title", "4;1;rgb:00/00/00", "8;;http://evil.example/", "8;id=1;file:///etc/passwd", "9;notice",
        "10;?", "11;?", "50;font", "52;c;ZXZpbA==", "52;p;?", "112", "133;A", "777;notify;a;b",
        "1337;File=inline=1:AA==",
    )
] + [
    f"{opening}{text}"
    for opening in ("\x1b[", "\x9b")
    for text in (
        "31mred", "0m", "2J", "1;1H", "1A", "2K", "6n", "c", ">c", "?25l", "?1049h", "20t", "21t", "3J",
        "8m hidden", "5i",
    )
] + [
    f"{opening}{text}{closing}"
    for opening, closing in (("\x1bP", "\x1b\\"), ("\x90", "\x9c"), ("\x1b_", "\x1b\\"), ("\x1b^", "\x1b\\"))
    for text in ("$q m", "+q 544e", "1;1|17/41", "qsixel", "Gf=100;AAAA")
] + ["\x1bc", "\x1b#8", "\x1b(0lqk", "\x1b7\x1b8", "\x1bZ", "a\x08\x08b", "safe\rEVIL", "\x05", "\x0e\x0f",
"\x84\x8d\x9a"]  # fmt: skip
_CI = [
    f"{before}{text}"
    for before in ("", "x\n", "x\r\n", "x\r", "x\u2028", " \t")
    for text in (
        "::error::y", "::warning file=a,line=1::y", "::set-output name=a::b", "::add-mask::e", "::stop-commands::t",
        "::set-env name=PATH::/evil", "::group::y", "::Error ::y", "##[error]y", "##[set-env name=PATH]/evil",
        "##vso[task.setvariable variable=a]b", "##vso[task.complete result=Succeeded;]",
        "##teamcity[buildStatus status='SUCCESS']", "##teamcity[setParameter name='a' value='b']",
        "section_start:1:y[collapsed=true]\r\x1b[0K", "section_end:1:y\r\x1b[0K",
    )
]  # fmt: skip
_MARKDOWN = [
    "[x](http://evil.example)", "[x](javascript:alert(1))", "![x](http://evil.example/p.png)",
    "[x]: http://evil.example",
    "<http://evil.example>", "<a@evil.example>", "http://evil.example/a", "https://evil.example/?a=b&c",
    "HTTP://EVIL.EXAMPLE",
    "www.evil.example", "WWW.evil.example/x", "ftp://evil.example", "mailto:a@evil.example", "xmpp:a@evil.example/x",
    "a@evil.example", "evil.example/path", "evil.com", "//evil.example/x", "see evil.example.", "(www.evil.example)",
    "@octocat", "@octo/cat", "x @octocat y", "#123", "GH-123", "octo/cat#123", "octo/cat@" + "a1" * 20, "!123", "%123",
    "~label", "&123", "$123", "^alert#1", "a5c3785ed8d6a35868bc169f07e40e889087fd2e", "a5c3785", "`code`",
    "``x``", "```", "~~~",
    "*a*", "**b**", "_c_", "__d__", "~~e~~", "# heading", "> quote", "- item", "+ item", "* item", "1. item",
    "---", "***",
    "===", "| a | b |", "a|b", "|", "\\|", "\\`", "`a|b@c`", "a`@b`", "$$x$$", "$`x`$", ":smile:", "[^1]", "[[wiki]]",
    "- [x] done", "    code", "<details><summary>x", "<!-- x", "&nbsp;", "&#64;octocat", "\\@octocat",
    "x<br>y", "[x][y]",
    "![]()", "a\n\n# b", "a  \nb", "*[abbr]: x", "{% raw %}\n|", "http:\u200b//evil.example",
]  # fmt: skip
_FORMULAS = [
    f"{before}{text}"
    for before in ("", " ", "\t", "\r", "\n", "\r\n", " \n ", "\u00a0", "\u200b", "\ufeff")
    for text in (
        "=1+1", "+1", "-1+1", "@SUM(A1)", "=cmd|' /C calc'!A0", '=HYPERLINK("http://evil.example","x")',
        "＝1+1", "＠SUM(A1)",
    )
] + ['","=1+1', '"\r\n=1+1', "a\rb", 'a"b', "a,b", "a;b", "=", "-", "＋1", "－1", "\x00=1", "%0A=1"]  # fmt: skip
_DIRECTION = [
    text.format(chr(point))
    for point in (0x61C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    for text in ("{}", "a{}b.exe")
]
_NAMES = [
    "..", "../../etc/passwd", "/etc/passwd", "~root", "-rf", "--help", "CON", "nul.txt", "a/../b", "C:\\x",
    "\\\\host\\x",
    "$(id)", "`id`", "${PATH}", "a;id", "a&&id", "a|id", "a > b", "*", "?", "!!", "None", "NaN", "true", "1e999",
]  # fmt: skip

CLASSES: dict[str, list[str]] = {
    "scripts": _SCRIPTS,
    "event handlers": _EVENTS,
    "attributes": _ATTRIBUTES,
    "addresses and styles": _URLS,
    "templates": _TEMPLATES,
    "HTML and SVG": _MARKUP,
    "entities": _ENTITIES,
    "unseen characters": _UNSEEN,
    "direction": _DIRECTION,
    "long": _LONG,
    "terminal sequences": _TERMINAL,
    "CI commands": _CI,
    "Markdown": _MARKDOWN,
    "CSV": _FORMULAS,
    "paths and shells": _NAMES,
}
ALL: tuple[str, ...] = tuple(dict.fromkeys(text for texts in CLASSES.values() for text in texts))
PLAIN: tuple[str, ...] = tuple(f"plain words {number}" for number in range(len(ALL)))
"""As many strings that do nothing: a page made with them is what the hostile one must look like."""

ACTS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2028\u2029\u2060-\u206f\ud800-\udfff\ufeff]"
)
"""Characters that act on a terminal, or unseen."""
OBEYED = re.compile(r"^\s*::[\w-]+[ :]|##(\w*)\[", re.IGNORECASE | re.MULTILINE)
"""Lines that a CI obeys."""
