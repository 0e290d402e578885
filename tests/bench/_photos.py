"""The folder of photos that README's "A judge of pictures" was measured with, out of five packages of Debian 12.

    python tests/bench/_photos.py photos/

Needs apt-get and dpkg, 180 MB to download, no root. Taken are real photos right as they are: no drawing, painting or
abstract picture, none that is faded, hazy, badly lit, tinted on purpose or under water, and each scene once.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

WALLPAPERS = {
    "lomiri-wallpapers-16.04": """Bridge_by_Sander_Klootwijk Dragonfly_by_Bolly Picture_0B_by_freespace
        Picture_1A_by_freespace Wine_by_Jakkub_Mede aitzgorri_by_Aitzol_Berasategi free_by_Peter_Nerlich
        friends_by_Aitzol_Berasategi life_by_Aitzol_Berasategi picosdeeuropa_by_Aitzol_Berasategi
        seeding_by_Clements_Engelhardt sunset_by_Aitzol_Berasategi""",
    "mate-backgrounds": """Aqua Blinds Dune FreshFlower Garden GreenMeadow LadyBird RainDrops Storm TwoWings
        YellowFlower""",
    "plasma-workspace-wallpapers": """ColdRipple ColorfulCups DarkestHour EveningGlow FallenLeaf Grey Kite OneStandsOut
        Path summer_1am""",
    "palapeli-data": """castle-maintenon cincinnati-bridge citrus-fruits european-honey-bee
        panther-chameleon-female""",
}
"""Package -> names in it, of files or of the folders of their sizes."""
RESOURCES = {
    "details": (37, 48, 67, 74, 83, 93),
    "erase": (*range(28), *range(29, 33)),
    "explore_farm_animals": range(9),
    "explore_monuments": sorted({*range(49)} - {10, 13, 21, 29, 30, 33, 34}),
    "explore_world_animals": range(15),
    "explore_world_music": (4, 6, 7),
}
"""Of gcompris-qt-data, whose pictures lie in Qt's resource files: file -> places of its WebP pictures."""


def main(folder: Path) -> None:
    """Download, unpack and copy. Raises CalledProcessError for a package that is not to be had."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as there:
        for package in (*WALLPAPERS, "gcompris-qt-data"):
            subprocess.run(["apt-get", "download", package], cwd=there, check=True)
            (archive,) = Path(there).glob(f"{package}_*.deb")
            subprocess.run(["dpkg", "-x", archive, f"{there}/{package}"], check=True)
        for package, names in WALLPAPERS.items():
            for name in names.split():
                (folder / f"{name}.jpg").write_bytes(largest(Path(there) / package, name).read_bytes())
        for stem, places in RESOURCES.items():
            (file,) = Path(there, "gcompris-qt-data").rglob(f"{stem}.rcc")
            pictures = webp(file.read_bytes())
            for place in places:
                (folder / f"{stem}-{place}.webp").write_bytes(pictures[place])


def largest(package: Path, name: str) -> Path:
    """The picture of that name, or the greatest of a wallpaper's sizes."""
    found = [*package.rglob(f"{name}.jpg"), *package.rglob(f"{name}/contents/images/*.jpg")]
    return max(found, key=lambda file: file.stat().st_size)


def webp(data: bytes) -> list[bytes]:
    """The WebP pictures in it: RIFF, four bytes of length, and as many bytes behind them."""
    starts = re.finditer(rb"RIFF(.{4})WEBP", data, re.DOTALL)
    return [data[at.start() : at.start() + 8 + int.from_bytes(at[1], "little")] for at in starts]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
