"""Lay Cars196 out in its official folders from archives or a folder, and check it.

python data_scripts/get_cars196.py --source cars_train.tgz --source cars_test.tgz
--source car_devkit.tgz --source cars_test_annos_withlabels.mat (in one line)
"""

import sys

from lay_out import command

from cubslib.datasets import Cars196

if __name__ == "__main__":
    sys.exit(
        command(
            __doc__.splitlines()[0],
            "cars196",
            ("cars_train", "cars_test", "devkit", "cars_test_annos_withlabels.mat"),
            Cars196,
            "The original host is gone; Kaggle's rickyyyyyyy/torchvision-stanford-cars has all.",
        )
    )
