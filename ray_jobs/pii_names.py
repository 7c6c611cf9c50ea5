"""Tells file names that carry somebody's data: an e-mail address, a phone number, a card number.

Dialling systems name recordings after the number dialled; such a name must not become a call id in the output.
"""

import re
from datetime import datetime

_EMAIL = re.compile(r"[\w.+-]+(?:@|%40|_at_)[\w-]+\.[a-z]{2,}", re.IGNORECASE)
_PHONE = re.compile(r"(?<!\w)(?:\+\d{1,3}[ .-]?)?\(?\d{2,4}\)?(?:[ .-]\d{2,4}){2,4}(?!\d)|(?<!\d)\+?\d{10,15}(?!\d)")
_DIGITS = re.compile(r"(?<!\d)\d(?:[ -]?\d){12,18}(?!\d)")
_TIMESTAMP_FORMATS = {10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_EPOCH_S = range(946_684_800, 4_102_444_800)  # the years 2000 to 2099


def looks_personal(name: str) -> bool:
    """Whether a file-name stem carries an e-mail address, a phone number or a payment card number."""
    if _EMAIL.search(name):
        return True
    if any(passes_luhn(digits) for digits in map(_only_digits, _DIGITS.findall(name)) if not _is_timestamp(digits)):
        return True
    phones = (_only_digits(match.group()) for match in _PHONE.finditer(name))
    return any(len(digits) >= 10 and not _is_timestamp(digits) for digits in phones)


def passes_luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of the ones before it (ISO/IEC 7812-1, annex B)."""
    doubled = [sum(divmod(int(digit) * 2, 10)) for digit in digits[-2::-2]]
    return (sum(map(int, digits[-1::-2])) + sum(doubled)) % 10 == 0


def _only_digits(text: str) -> str:
    return re.sub(r"\D", "", text)


def _is_timestamp(digits: str) -> bool:
    """YYYYMMDD with hours, minutes, seconds and fractions as far as given, or Unix seconds or milliseconds."""
    if len(digits) in (10, 13) and int(digits[:10]) in _EPOCH_S:
        return True
    whole = digits[:14]
    layout = _TIMESTAMP_FORMATS.get(len(whole) - len(whole) % 2 if len(digits) > 14 else len(digits))
    if layout is None or not "1990" <= digits[:4] <= "2099":
        return False
    try:
        datetime.strptime(whole, layout)
    except ValueError:
        return False
    return True
