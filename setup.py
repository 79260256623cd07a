"""What `pyproject.toml` cannot say: building leaves no folder `build` in the checkout.

pip builds in the checkout. setuptools keeps what it has built in `build`, and would put all of it
into the next wheel, also modules that do not exist any more.
"""

import tempfile

from setuptools import setup
from setuptools.command.build import build


class BuildElsewhere(build):
    """The command `build`, in a folder of its own that is removed when the process ends."""

    def initialize_options(self) -> None:
        super().initialize_options()
        self._folder = tempfile.TemporaryDirectory()
        self.build_base = self._folder.name


setup(cmdclass={"build": BuildElsewhere})
