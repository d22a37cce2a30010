"""In the Python of a machine of the tests: once told to by a file, one training process makes a gradient of its next step not a number.

Python imports this by itself where the folder is on its path. It stands for a bit that flips in a GPU; nothing of the project knows of it.
"""

import gc
import os
import sys
import threading
import time

POISON = os.environ.get("TEST_POISON", "")
"""The file; whoever removes it does it."""


def watch():
    while True:
        time.sleep(0.05)
        if "hyena_glt.training.loop" in sys.modules and os.path.exists(POISON):
            for model in [found for found in gc.get_objects() if type(found).__name__ == "DeepSpeedEngine"]:
                try:
                    os.remove(POISON)
                except FileNotFoundError:
                    break
                poison(next(model.parameters()))


def poison(parameter):
    def once(gradient):
        hook.remove()
        return gradient * float("nan")

    hook = parameter.register_hook(once)


if POISON:
    threading.Thread(target=watch, daemon=True).start()
