#!/usr/bin/env bash
# haystack-ai 3.4.1: in a class under @component, super() without arguments raises TypeError.
#
# Guess:  a decorator of a class leaves its methods as they are; a component may derive from another class and call
#         super().__init__().
# Seen:   @component makes the class anew, with another metaclass. The methods still know the first one, of which the
#         object is no instance. Two classes of one name exist from then on. The base class's own name works.
#
# Output, 2026-11-29, Python 3.11:
#     super(): TypeError: super(type, obj): obj must be an instance or subtype of type
#     the base class by name: 21
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet haystack-ai==3.4.1

HAYSTACK_TELEMETRY_ENABLED=False "$work/venv/bin/python" - <<'PYTHON'
from haystack import component


class Multiplier:
    def __init__(self, factor: int) -> None:
        self.factor = factor


@component
class ByShortName(Multiplier):
    def __init__(self, factor: int) -> None:
        super().__init__(factor)

    @component.output_types(product=int)
    def run(self, value: int) -> dict:
        return {"product": self.factor * value}


@component
class ByFullName(Multiplier):
    def __init__(self, factor: int) -> None:
        Multiplier.__init__(self, factor)

    @component.output_types(product=int)
    def run(self, value: int) -> dict:
        return {"product": self.factor * value}


try:
    ByShortName(3)
    print("super():", message := "works")
except TypeError as error:
    print("super(): TypeError:", message := str(error))
print("the base class by name:", product := ByFullName(3).run(7)["product"])
assert "super(type, obj)" in message
assert product == 21
PYTHON
