"""How long work says how far it is: whoever starts it hands in what shows that."""

from collections.abc import Callable, Iterable
from typing import Any

# (items, what is done with them, how many there are) -> the same items, each counted as it is taken
Progress = Callable[[Iterable[Any], str, int], Iterable[Any]]
