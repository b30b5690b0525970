"""Runs another script of this folder several times in one process: importing nnU-Net takes five
seconds.

Live: runs.py SCRIPT.py, with a JSON list of lists of arguments on standard input

Each run starts as in a separate process: the script's main sets seed, threads and determinism
(stack.start).
"""

import importlib
import json
import sys
from pathlib import Path

script = Path(__file__).parent / sys.argv[1]
main = importlib.import_module(script.stem).main
for arguments in json.load(sys.stdin):
    print(script.name, *arguments, flush=True)
    sys.argv = [str(script), *arguments]
    main()
