"""Published data sets: one record each.

`data.name` is the key. Licences are quoted from the publishers; `unknown` means that none is stated.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from drtune.sources import published
from drtune.sources.archives import Archive

FASTAI = "https://s3.amazonaws.com/fast-ai-imageclas"
OMNIGLOT = "https://raw.githubusercontent.com/brendenlake/omniglot/master/python"
OXFORD = "https://www.robots.ox.ac.uk/~vgg/data"
STANFORD = "https://ai.stanford.edu/~jkrause"
NO_SPLIT = "the publisher's archive has no split"


@dataclass(frozen=True)
class Published:
    """One published data set.

    Attributes:
        title: for people.
        licence: as stated by the publisher, or `unknown`.
        homepage: where it is described.
        classes: number of classes C.
        split: the official split that is used, in words.
        archives: what is fetched; checksums are the publisher's or torchvision's.
        read: turns the extracted tree into rows.
    """

    title: str
    licence: str
    homepage: str
    classes: int
    split: str
    archives: tuple[Archive, ...]
    read: published.Reader


CATALOG: Mapping[str, Published] = {
    "cifar10": Published(
        title="CIFAR-10",
        licence="unknown",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=10,
        split="official train and test",
        archives=(
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
            ),
        ),
        read=published.cifar10,
    ),
    "cifar100": Published(
        title="CIFAR-100 (fine labels)",
        licence="unknown",
        homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
        classes=100,
        split="official train and test",
        archives=(
            Archive(
                "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz", "eb9058c3a382ffc7106e4002c42a8d85"
            ),
        ),
        read=published.cifar100,
    ),
    "oxford_pets": Published(
        title="Oxford-IIIT Pet",
        licence="CC BY-SA 4.0",
        homepage=f"{OXFORD}/pets/",
        classes=37,
        split="official trainval and test",
        archives=(
            Archive(
                f"{OXFORD}/pets/data/images.tar.gz",
                "5c4f3ee8e5d25df40f4fd59a7f44e54c",
                into="oxford-iiit-pet",
            ),
            Archive(
                f"{OXFORD}/pets/data/annotations.tar.gz",
                "95a8c909bbe2e81eed6a22bccdf3f68f",
                into="oxford-iiit-pet",
            ),
        ),
        read=published.oxford_pets,
    ),
    "flowers102": Published(
        title="Oxford 102 Flowers",
        licence="unknown",
        homepage=f"{OXFORD}/flowers/102/",
        classes=102,
        split="official train, val and test",
        archives=(
            Archive(
                f"{OXFORD}/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", into="flowers-102"
            ),
            Archive(
                f"{OXFORD}/flowers/102/imagelabels.mat",
                "e0620be6f572b9609742df49c70aed4d",
                into="flowers-102",
            ),
            Archive(
                f"{OXFORD}/flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c", into="flowers-102"
            ),
        ),
        read=published.flowers102,
    ),
    "dtd": Published(
        title="Describable Textures Dataset, r1.0.1",
        licence="research purposes",
        homepage=f"{OXFORD}/dtd/",
        classes=47,
        split="official train, val and test of partition 1",
        archives=(
            Archive(
                f"{OXFORD}/dtd/download/dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1", into="dtd"
            ),
        ),
        read=published.dtd,
    ),
    "caltech101": Published(
        title="Caltech-101 (without its background class)",
        licence="CC BY 4.0",
        homepage="https://data.caltech.edu/records/mzrjq-6wc02",
        classes=101,
        split=NO_SPLIT,
        archives=(
            Archive(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                into="caltech101",
                inner="caltech-101/101_ObjectCategories.tar.gz",
            ),
        ),
        read=published.caltech101,
    ),
    "stanford_cars": Published(
        title="Stanford Cars",
        licence="unknown",
        homepage=f"{STANFORD}/cars/car_dataset.html",
        classes=196,
        split="official train and test",
        archives=(
            Archive(
                f"{STANFORD}/cars/car_devkit.tgz",
                "c3b158d763b6e2245038c8ad08e45376",
                into="stanford_cars",
                gone=True,
            ),
            Archive(
                f"{STANFORD}/car196/cars_train.tgz",
                "065e5b463ae28d29e77c1b4b166cfe61",
                into="stanford_cars",
                gone=True,
            ),
            Archive(
                f"{STANFORD}/car196/cars_test.tgz",
                "4ce7ebf6a94d07f1952d94dd34c4d501",
                into="stanford_cars",
                gone=True,
            ),
            Archive(
                f"{STANFORD}/car196/cars_test_annos_withlabels.mat",
                "b0a2b23655a3edd16d84508592a98d10",
                into="stanford_cars",
                gone=True,
            ),
        ),
        read=published.stanford_cars,
    ),
    "fgvc_aircraft": Published(
        title="FGVC Aircraft 2013b, variants",
        licence="non-commercial research purposes only",
        homepage=f"{OXFORD}/fgvc-aircraft/",
        classes=100,
        split="official train, val and test",
        archives=(Archive(f"{OXFORD}/fgvc-aircraft/archives/fgvc-aircraft-2013b.tar.gz", None),),
        read=published.fgvc_aircraft,
    ),
    "food101": Published(
        title="Food-101",
        licence="unknown",
        homepage="https://data.vision.ee.ethz.ch/cvl/datasets_extra/food-101/",
        classes=101,
        split="official train and test",
        archives=(
            Archive("http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz", "85eeb15f3717b99a5da872d97d918f87"),
        ),
        read=published.food101,
    ),
    "eurosat": Published(
        title="EuroSAT (RGB)",
        licence="MIT",
        homepage="https://github.com/phelber/EuroSAT",
        classes=10,
        split=NO_SPLIT,
        archives=(
            Archive(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
                into="eurosat",
            ),
        ),
        read=published.eurosat,
    ),
    "svhn": Published(
        title="Street View House Numbers, cropped digits",
        licence="non-commercial use only",
        homepage="http://ufldl.stanford.edu/housenumbers/",
        classes=10,
        split="official train and test (the extra set is not used)",
        archives=(
            Archive(
                "http://ufldl.stanford.edu/housenumbers/train_32x32.mat", "e26dedcc434d2e4c54c9b2d4a06d8373"
            ),
            Archive(
                "http://ufldl.stanford.edu/housenumbers/test_32x32.mat", "eb5a983be6a315427106f1b164d9cef3"
            ),
        ),
        read=published.svhn,
    ),
    "stl10": Published(
        title="STL-10",
        licence="unknown",
        homepage="https://cs.stanford.edu/~acoates/stl10/",
        classes=10,
        split="official train (5,000 labelled images) and test",
        archives=(
            Archive(
                "http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",
                "91f7769df0f17e558f3565bffb0c7dfb",
            ),
        ),
        read=published.stl10,
    ),
    "sun397": Published(
        title="SUN397",
        licence="unknown",
        homepage="https://vision.princeton.edu/projects/2010/SUN/",
        classes=397,
        split="torchvision offers no split of the whole set",
        archives=(
            Archive(
                "http://vision.princeton.edu/projects/2010/SUN/SUN397.tar.gz",
                "8ca2778205c41d23104230ba66911c7a",
            ),
        ),
        read=published.sun397,
    ),
    "omniglot": Published(
        title="Omniglot, characters of the background set",
        licence="MIT",
        homepage="https://github.com/brendenlake/omniglot",
        classes=964,
        split="by drawer: 1-14 train, 15-16 val, 17-20 test (the official split has no common classes)",
        archives=(
            Archive(
                f"{OMNIGLOT}/images_background.zip",
                "68d2efa1b9178cc56df9314c21c6e718",
                into="omniglot-py",
                beside=True,
            ),
        ),
        read=published.omniglot,
    ),
    "imagenet20": Published(
        title="ImageNet20: Imagenette and Imagewoof, 320 pixels",
        licence="Apache-2.0 (lists); images under ImageNet's terms: non-commercial research",
        homepage="https://github.com/fastai/imagenette",
        classes=20,
        split="official train; the official val is the test set",
        archives=(
            Archive(f"{FASTAI}/imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3"),
            Archive(f"{FASTAI}/imagewoof2-320.tgz", None),
        ),
        read=published.imagenet20,
    ),
}
