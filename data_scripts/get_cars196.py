"""Download Cars196, lay it out in its official folders, and check it.

python data_scripts/get_cars196.py
python data_scripts/get_cars196.py --source cars_train.tgz --source cars_test.tgz
--source car_devkit.tgz --source cars_test_annos_withlabels.mat (in one line)

The original host is gone. Of the mirrors that need no account this one is taken because it has the
official files as they were, boxes and test labels included, in one zip (the parquet files of others
have no boxes). Nobody publishes its checksum, so the server's own, the zip's, and the official
counts and class names stand in for one. A source may also be `car_ims` with `cars_annos.mat`, or
folders of classes, `train/<class>/…` and `test/<class>/…`.
"""

import sys

from cars_layouts import PARTS, arrange, place
from download import Archive
from lay_out import Wanted, command

from cubslib.datasets import Cars196

ARCHIVE = Archive(
    "torchvision-stanford-cars.zip",
    "https://www.kaggle.com/api/v1/datasets/download/rickyyyyyyy/torchvision-stanford-cars",
    hosts=("kaggle.com", "kaggleusercontent.com", "storage.googleapis.com"),
    unpacked=2_000_000_000,
)

WANTED = Wanted("cars196", Cars196, ARCHIVE, PARTS, place, arrange)

if __name__ == "__main__":
    sys.exit(command(__doc__.splitlines()[0], WANTED))
