"""The front door, struck by a signal at a point of its way: the NTHth time that Python does EVENT, an audit
event, with the pattern WORDS in its arguments, or SECONDS after that."""

from __future__ import annotations

import os
import re
import sys
import threading

from builders.tools.front import Front
from tasks import namespace

number, event, words, nth, seconds = sys.argv[1:6]
left = int(nth)


def strike(name: str, arguments: tuple[object, ...]) -> None:
    global left
    if name != event or left == 0 or not re.search(words, repr(arguments)):
        return
    left -= 1
    if left == 0:
        blow = (os.getpid(), int(number))
        if float(seconds):
            threading.Timer(float(seconds), os.kill, blow).start()
        else:
            os.kill(*blow)


sys.addaudithook(strike)
del sys.argv[1:6]
Front(namespace=namespace, name="nokmem", binary="./run").run()
