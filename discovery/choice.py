"""Which of several sources' answers is the one that callers get. Pure.

A source that was not heard yet holds back those after it; one that cannot say is passed over, but where no other knows
the service nothing is said rather than that there is none.
"""

from collections.abc import Mapping

from discovery.rules import merged
from discovery.source import NOT_YET, Answer, NotYet
from meshd.api.endpoints import EndpointSet


def first(count: int, heard: Mapping[int, Answer]) -> Answer:
    """The answer of the first of `count` sources that knows the service; `heard` by their place."""
    answer: Answer = None
    for place in range(count):
        if place not in heard:
            return NOT_YET
        said = heard[place]
        if isinstance(said, EndpointSet):
            return said
        if isinstance(said, NotYet):
            answer = NOT_YET
    return answer


def together(count: int, heard: Mapping[int, Answer]) -> Answer:
    """The answers of all of them as one."""
    if any(place not in heard for place in range(count)):
        return NOT_YET
    answers = [heard[place] for place in range(count)]
    if found := [answer for answer in answers if isinstance(answer, EndpointSet)]:
        return merged(found)
    return NOT_YET if NOT_YET in answers else None
