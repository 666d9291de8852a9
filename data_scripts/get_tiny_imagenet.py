"""Download Tiny ImageNet, lay it out in its official folders, and check it.

python data_scripts/get_tiny_imagenet.py
python data_scripts/get_tiny_imagenet.py --source tiny-imagenet-200.zip
"""

import sys

from download import Archive
from lay_out import Wanted, below, command

from cubslib.datasets import TinyImageNet

ARCHIVE = Archive(
    "tiny-imagenet-200.zip",
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    hosts=("stanford.edu",),
    unpacked=550_000_000,
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
)
PARTS = ("train", "val", "wnids.txt", "words.txt")

WANTED = Wanted("tiny-imagenet-200", TinyImageNet, ARCHIVE, PARTS, below(PARTS))

if __name__ == "__main__":
    sys.exit(command(__doc__.splitlines()[0], WANTED))
