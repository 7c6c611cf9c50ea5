"""Tells file names that carry somebody's data: an e-mail address, a phone number, a card number.

Dialling systems name recordings after the number dialled; such a name must not become a call id in the output.
"""

import re
from datetime import datetime

_SUSPECT = re.compile(r"@|%40|_at_|\+|(?:\d\D*){9}", re.IGNORECASE)  # every name that looks personal has one of these
_UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+(?:@|%40|_at_)[\w-]+\.[a-z]{2,}", re.IGNORECASE)
_GROUPED_PHONE = re.compile(
    r"(?<!\d)(?:"
    r"\+\d{1,3}(?:[ ._-]\d{2,5}){2,4}"  # +44 20 7946 0958
    r"|(?:1[ ._-])?\(?[2-9]\d{2}\)?[ ._-]?\d{3}[ ._-]\d{4}"  # (217) 555-0142
    r"|0\d{2,4}[ ._-]\d{3,4}[ ._-]?\d{3,4}"  # 020 7946 0958
    r")(?!\d)"
)
_TOKEN = re.compile(r"\+?[0-9A-Za-z]+")
_PHONE_TOKEN = re.compile(r"[A-Za-z]*\+?(\d{10,15})[A-Za-z]*")  # not the digits inside a hexadecimal id
_CARD = re.compile(r"(?<!\w)\d(?:[ -]?\d){12,18}(?!\w)")
_TIMESTAMPS = {12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_EPOCH_S = range(1_000_000_000, 2_000_000_000)  # the years 2001 to 2033; no American number begins with 1


def looks_personal(name: str) -> bool:
    """Whether a file-name stem carries an e-mail address, a phone number or a payment card number."""
    if not _SUSPECT.search(name):
        return False
    name = _UUID.sub("", name)
    if _EMAIL.search(name) or _GROUPED_PHONE.search(name):
        return True
    tokens = (_PHONE_TOKEN.fullmatch(token) for token in _TOKEN.findall(name))
    if any(token is not None and not is_timestamp(token[1]) for token in tokens):
        return True
    cards = (re.sub(r"\D", "", card) for card in _CARD.findall(name))
    return any(passes_luhn(card) and not is_timestamp(card) for card in cards)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the ones before it (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(int(digit) * 2, 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def is_timestamp(digits: str) -> bool:
    """Whether digits are YYYYMMDDHHMM, then seconds and fractions as far as given, or Unix seconds or milliseconds."""
    if len(digits) in (10, 13) and int(digits[:10]) in _EPOCH_S:
        return True
    whole = digits[: max(length for length in (0, *_TIMESTAMPS) if length <= len(digits))]
    if not "1990" <= whole[:4] <= "2099" or (len(digits) > len(whole) and len(whole) != 14):
        return False
    try:
        datetime.strptime(whole, _TIMESTAMPS[len(whole)])
    except ValueError:
        return False
    return True
