"""Text on its way out of the process: secrets are masked, and what a terminal would obey is shown
escaped.

Three strengths, since data must stay as they are while messages may lose a word too many:
``without_values`` takes out the values of environment variables that are named like secrets,
``without_keys`` also whatever has the form of a key or lies in an address, and ``mask`` also what
is called a secret where it stands (``api_key=...``, ``Authorization: ...``).
"""

from __future__ import annotations

import hashlib
import html
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

if TYPE_CHECKING:
    from pydantic_core import SchemaValidator

MASK = "***"
SHORTEST, SHORTEST_MIXED = 8, 6
"""Characters of a variable's value that is masked: fewer when letters and digits are mixed. Shorter
ones would take ordinary words out of every text."""

LAST = {
    *("password", "passwd", "passphrase", "passcode", "pass", "pwd", "secret", "secrets", "jwt"),
    *("credential", "credentials", "bearer", "authorization", "auth", "oauth", "cookie", "cookies"),
    *("session", "key", "keys", "token", "tokens"),
}
"""A name whose last word is one of these is a secret's."""
ENDINGS = ("password", "passwd", "secret", "token", "apikey", "accesskey", "secretkey", "authkey")
"""The same where words are written as one: ``pgpassword``, ``authtoken``."""
ANYWHERE = {
    "password",
    "passwd",
    "secret",
    "token",
    "key",
    "apikey",
    "credential",
    "credentials",
    "pat",
}
"""In the name of an environment variable, these mean a secret wherever they stand."""
PLAIN = {
    *("batch", "begin", "bos", "cache", "cls", "column", "data", "end", "eos", "extra", "first"),
    *("foreign", "group", "id", "image", "input", "label", "last", "lookup", "mask", "max", "min"),
    *("n", "new", "next", "num", "output", "pad", "per", "primary", "prompt", "public", "question"),
    *("row", "sep", "sort", "special", "start", "stop", "target", "text", "think", "unk", "video"),
    *("vision", "visual"),
}
"""A key, a token or a pass of one of these is none that must be hidden: ``stop_token``."""
SUFFIXES = {"id", "prod", "dev", "test", "staging", "read", "write", "value", "base64"}
"""Words after which a name still is what it was: ``access_key_id``."""
PLACES = {"path", "file", "dir", "folder", "sock", "socket", "name", "type", "env"}
"""A variable with such a last word says where a secret is, not what it is."""

SHAPES: tuple[tuple[tuple[str, ...], re.Pattern[str], str], ...] = tuple(
    (starts, re.compile(pattern), put)
    for starts, pattern, put in (
        (("sk-",), r"sk-(?<![A-Za-z0-9]sk-)(?=[\w-]{0,99}[A-Z0-9])[\w-]{8,}", MASK),
        (("k_live_", "k_test_"), r"\b[spr]k_(?:live|test)_\w{8,}", MASK),
        (("hf_",), r"hf_(?<![A-Za-z0-9]hf_)(?=[a-z]{0,50}[A-Z0-9])[A-Za-z0-9]{10,}", MASK),
        (("ghp_", "gho_", "ghu_", "ghs_", "ghr_"), r"\bgh[pousr]_[A-Za-z0-9]{12,}", MASK),
        (("github_pat_",), r"github_pat_\w{12,}", MASK),
        (("glpat-",), r"glpat-[\w-]{12,}", MASK),
        (("AKIA",), r"AKIA(?<!\wAKIA)[A-Z0-9]{12,}", MASK),
        (("ASIA",), r"ASIA(?<!\wASIA)[A-Z0-9]{12,}", MASK),
        (("AIza",), r"AIza[\w-]{20,}", MASK),
        (("ya29.",), r"ya29\.[\w-]{16,}", MASK),
        (("xox",), r"xox(?<!\wxox)[a-z]-[\w-]{8,}", MASK),
        (("xapp-",), r"xapp-[\w-]{8,}", MASK),
        (("hooks.slack.com/",), r"(?<=hooks\.slack\.com/)[\w/-]{8,}", MASK),
        (("/webhooks/",), r"(?<=/webhooks/)[\w/-]{16,}", MASK),
        (("Key=",), r"(?<=[a-z]Key=)[A-Za-z0-9+/]{20,}=*", MASK),
        (("gsk_",), r"\bgsk_[A-Za-z0-9]{12,}", MASK),
        (("eyJ",), r"eyJ(?<![\w-]eyJ)[\w-]{6,}(?:\.[\w-]+)(?:\.[\w-]*){0,3}", MASK),
        (("npm_", "r8_"), r"\b(?:npm|r8)_[A-Za-z0-9]{20,}", MASK),
        (("pypi-", "nvapi-", "pplx-", "xai-"), r"\b(?:pypi|nvapi|pplx|xai)-[\w-]{20,}", MASK),
        (("dop_v1_", "shpat_"), r"(?:dop_v1|shpat)_[a-f0-9]{20,}", MASK),
        (("SG.",), r"\bSG\.[\w-]{12,}\.[\w-]{12,}", MASK),
        (
            ("PRIVATE KEY-----",),
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----(?:\\{1,4}[nr]|[\w+/=\s:,.-])*",
            MASK,
        ),
        (
            ("earer ",),
            r"(?<=earer )\s*(?=[\w.~+/-]{0,99}[0-9])[\w.~+/-]{8,}=*",
            MASK,
        ),
        # the user and password of an address, also where a path has made one slash of two
        (
            (":/",),
            r""":/(?<=[A-Za-z0-9][A-Za-z0-9+.-]:/)(/?)[^\s/?#"'<>\\]{1,500}@""",
            rf":/\1{MASK}@",
        ),
    )
)
"""What keys look like: texts of which one is in every such key, the pattern, and what is put in its
place. None of them takes in a quote or a backslash, so JSON and HTML stay whole; none looks further
ahead than some hundred characters, so a long text takes no longer than it must."""
LONG = 4096
"""Characters from which a text is first looked through for all keys at once."""

QUERY = re.compile(r"""([?&#](?:amp;)?([\w.-]{1,40})=)[^\s&;#"'<>\\]+""")
NAMED = re.compile(
    r"""(?<![\w-])(?P<name>-{0,2}[A-Za-z][\w.-]{0,60})(?P<sign>["']?\s*(?:=>|[=:])\s*|\s+)"""
)
"""A name and what separates it from its value: a sign, or blanks after an option."""
NAME = re.compile(r"[\w-]{1,60}")
"""A key of JSON that is a name; other keys are paths, modules or texts."""
HEADERS = ("authorization", "cookie")
VALUE = re.compile(r""""[^"\n]*"|'[^'\n]*'|[^\s,;'"\\&<>(){}\[\]]+""")
HEADER_VALUE = re.compile(r""""[^"\n]*"|'[^'\n]*'|[^\n'"\\<>{}]+""")
NO_VALUE = {"none", "null", "true", "false", MASK, '""', "''"}
ROOTS = re.compile("(?i)key|token|pass|pwd|secret|cred|auth|cookie|session|bearer|jwt")

CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What moves a terminal's cursor or the direction of its text; tabs and line breaks do no harm."""


def mask(text: str) -> str:
    """A message with everything that looks like a secret replaced by ``***``."""
    text = without_keys(text)
    if not ROOTS.search(text):
        return text
    out, end = [], 0
    for m in NAMED.finditer(text):
        name = m["name"]
        if m.start() < end or not ROOTS.search(name) or not is_secret(name):
            continue
        if m["sign"].isspace() and not name.startswith("-"):
            continue
        header = name.lower().endswith(HEADERS) and ":" in m["sign"]
        value = (HEADER_VALUE if header else VALUE).match(text, m.end())
        if value is None or value[0].strip().lower() in NO_VALUE:
            continue
        quotes = value[0][0] if value[0][0] in "\"'" else ""
        out += [text[end : m.end()], quotes, MASK, quotes]
        end = value.end()
    return "".join([*out, text[end:]])


def without_keys(text: str) -> str:
    """A text with known secrets, and what has the form of a key, replaced by ``***``."""
    text = without_values(text)
    if len(text) < LONG or _may_hold_keys(text):
        for starts, pattern, put in SHAPES:
            if any(start in text for start in starts):
                text = pattern.sub(put, text)
    if "=" in text and ("?" in text or "&" in text or "#" in text):
        text = QUERY.sub(_query, text)
    return text


def _may_hold_keys(text: str) -> bool:
    """Whether a text holds what every key begins with; in one search, by an engine that looks for
    forty texts as fast as for one.
    """
    return bool(_starts().isinstance_python(text.encode("utf-8", "replace")))


@lru_cache(maxsize=1)
def _starts() -> SchemaValidator:
    from pydantic_core import SchemaValidator, core_schema  # takes longer than a short command

    starts = "|".join(re.escape(start) for starts, _, _ in SHAPES for start in starts)
    return SchemaValidator(core_schema.str_schema(pattern=starts, regex_engine="rust-regex"))


def without_values(text: str) -> str:
    """A text with the values of environment variables that are named like secrets replaced by
    ``***``: those that are set now, and those that were set when this was called before.
    """
    known = _known()
    return known.sub(MASK, text) if known else text


def masked(value: Any) -> Any:
    """JSON without secrets: ``***`` is what lies under a secret's name, ``without_keys`` applied to
    all other texts.
    """
    if isinstance(value, Mapping):
        return {
            without_keys(k) if isinstance(k, str) else k: MASK
            if isinstance(k, str) and NAME.fullmatch(k) and is_secret(k) and _hides(v)
            else masked(v)
            for k, v in value.items()
        }
    return mapped(value, without_keys, masked)


def mapped(
    value: Any, text: Callable[[str], str], nested: Callable[[Any], Any] | None = None
) -> Any:
    """JSON with a function applied to all its texts; ``nested`` takes what lists hold."""
    inner = nested or (lambda v: mapped(v, text))
    if isinstance(value, str):
        return text(value)
    if isinstance(value, Mapping):
        return {k: inner(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [inner(v) for v in value]
    return value


@lru_cache(maxsize=4096)
def is_secret(name: str, variable: bool = False) -> bool:
    """Whether something of this name is a secret: ``api_key``, ``Authorization``, ``PGPASSWORD``.
    ``variable``: of the environment, where the telling word may stand anywhere.
    """
    words = [w.lower() for w in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+", name)]
    if variable and words and words[-1] in {*PLACES, "session"}:  # a desktop's has a name
        return False
    while words and (words[-1].isdigit() or words[-1] in SUFFIXES):
        words.pop()
    if not words:
        return False
    *before, last = words
    if last in ("keys", "tokens", "pass") and not before:
        return False
    if PLAIN.intersection(before):
        return last in LAST - {"key", "keys", "token", "tokens", "pass", "session"}
    return last in LAST or last.endswith(ENDINGS) or (variable and bool(ANYWHERE & set(words)))


def digest_of(text: str) -> str:
    """What stands for a value that is not shown, so that two can be told apart. Six digits: enough
    for that, too few to find the value by trying.
    """
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:6]}"


def printable(text: str) -> str:
    """The text with whatever is not printed (escape sequences, line breaks) as ``\\x1b``."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def harmless(text: str, allowed: str = "") -> str:
    """The text of several lines as a terminal may have it: control characters but line breaks,
    tabs and those ``allowed`` as ``\\u001b``, which JSON has for them too.
    """
    return CONTROL.sub(lambda m: m[0] if m[0] in allowed else f"\\u{ord(m[0]):04x}", text)


def _query(m: re.Match[str]) -> str:
    named = m[2].lower()
    secret = is_secret(m[2]) or named.endswith(("signature", "sig"))
    return f"{m[1]}{MASK}" if secret else m[0]


def _hides(value: Any) -> bool:
    """Whether a value under a secret's name is one: settings that are on, off or empty are none."""
    return isinstance(value, str | int | float) and not isinstance(value, bool) and value != ""


_SEEN: set[str] = set()
_state: tuple[Mapping[Any, Any], re.Pattern[str] | None] = ({}, None)


def _known() -> re.Pattern[str] | None:
    """Whatever secret variables hold or held, as a pattern; None when there is none. The
    environment is looked at each time: adapters set keys when they are imported.
    """
    global _state
    # Decoding all variables for each text would take longer than all else that is done with it.
    raw = vars(os.environ).get("_data")
    now = os.environ if raw is None else raw
    if now == _state[0]:
        return _state[1]
    now = dict(now)
    for name, value in os.environ.items():
        _SEEN.update(_values(name, value))
    forms = {form for value in _SEEN for form in _forms(value)}
    longest_first = sorted(forms, key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, longest_first))) if forms else None
    _state = now, pattern
    return pattern


def _values(name: str, value: str) -> Iterator[str]:
    """The secrets that a variable holds."""
    for address in re.findall(r"://[^\s/?#:@]*:([^\s/?#]+)@", value):
        yield from filter(_long_enough, [address])
    if name in ("PWD", "OLDPWD") or not is_secret(name, variable=True):
        return
    if os.path.exists(value):  # noqa: PTH110 - not a path, as a rule
        return
    parts = re.split(r"[,;\s]+", value)
    yield from filter(_long_enough, {value.strip(), *parts})


def _long_enough(value: str) -> bool:
    if re.fullmatch(r"[\d.]{,9}", value):
        return False
    mixed = re.search(r"\d", value) and re.search(r"[A-Za-z]", value)
    return len(value) >= (SHORTEST_MIXED if mixed else SHORTEST)


def _forms(value: str) -> set[str]:
    """How a value may be written: as it is, in JSON, HTML, an address, or Python."""
    packed = json.dumps(value, ensure_ascii=False)[1:-1]
    return {
        value,
        packed,
        packed.replace("<", "\\u003c"),
        json.dumps(value)[1:-1],
        html.escape(value),
        html.escape(value, quote=False),
        quote(value, safe="", errors="replace"),
        quote_plus(value, errors="replace"),
        repr(value)[1:-1],
    }
