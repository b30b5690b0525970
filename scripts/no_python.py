#!/usr/bin/env python3
"""Lets the program tell Python what it is: scripts/no_python.py FILE

Appends a zip archive of one small __main__.py to an executable. Whoever runs that as a Python script,
as torchrun does without --no-python, then reads which flag is missing instead of a SyntaxError
about null bytes: Python runs a file that ends in a zip archive by its __main__.py. The program itself does not
see the archive. The same file gives the same bytes.
"""

import io
import sys
import zipfile

MAIN = """import sys
sys.stderr.write("lntorch is a program, not a Python script: start it by `torchrun --no-python lntorch train ...`\\n")
sys.exit(2)
"""


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr(zipfile.ZipInfo("__main__.py"), MAIN)
    with open(sys.argv[1], "ab") as f:
        f.write(archive.getvalue())


if __name__ == "__main__":
    main()
