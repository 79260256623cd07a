"""What the server sees of a repository: an entry for each model, which is replaced in one step.

The entry of a model is a link to its folder in the repository. If particular versions are to be
served, whatever the version policy says, it is a link to a folder with a config of its own.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from google.protobuf import text_format

from seresnext101_triton.client.launches import Launch
from seresnext101_triton.server.versions import (
    CONFIG_FILENAME,
    LABELS_FILENAME,
    config_folder,
    pinned_policy,
    read_config,
    taken_numbers,
)

_PINNED = "pinned"  # the folder of a workspace with the entries that have a config of their own
_ACCEPTED = "accepted"  # and that with the versions of each model that were accepted


class View:
    """The repository of one server. Of several processes, one at a time may change it.

    Args:
        models: The folder that the server takes for its repository.
        pinned: A folder for the entries with a config of their own. It may not exist yet.
    """

    def __init__(self, models: Path, pinned: Path) -> None:
        self._models, self._pinned = models, pinned

    @classmethod
    def of(cls, launch: Launch) -> View:
        """The repository that the server of a launch sees."""
        return cls(launch.models_folder, Path(launch.workspace, _PINNED))

    def show(self, folder: Path) -> None:
        """Show a model as its folder is.

        Raises:
            OSError: The entry cannot be written.
        """
        self._enter(folder.name, folder.resolve())

    def pin(
        self,
        folder: Path,
        versions: Sequence[int],
        name: str = "",
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        """Show a model with these versions, and with the config and the labels of the newest one.

        Args:
            folder: The folder of the model.
            versions: The versions.
            name: The name of the model for the server, if it is not that of the folder.
            parameters: What the config has in its section `parameters` besides.

        Raises:
            OSError: The entry cannot be written, or the folder cannot be read.
            ValueError: The config of the version is not a config.
        """
        name, source = name or folder.name, folder.resolve()
        self._pinned.mkdir(exist_ok=True)
        entry = Path(tempfile.mkdtemp(dir=self._pinned), name)
        entry.mkdir()
        own = config_folder(source, versions[-1])
        config = read_config(own)
        config.name = name
        config.version_policy.CopyFrom(pinned_policy(*versions))
        for key, value in (parameters or {}).items():
            config.parameters[key].string_value = value
        (entry / CONFIG_FILENAME).write_text(text_format.MessageToString(config), encoding="utf-8")
        if (own / LABELS_FILENAME).is_file():
            # A copy: a promotion moves the file, and Triton cannot read a link that leads nowhere.
            shutil.copyfile(own / LABELS_FILENAME, entry / LABELS_FILENAME)
        hidden = {CONFIG_FILENAME, LABELS_FILENAME, *map(str, taken_numbers(source))}
        for path in source.iterdir():
            if path.name not in hidden or path.name in map(str, versions):
                (entry / path.name).symlink_to(path)
        self._enter(name, entry)

    def accept(self, name: str, versions: Sequence[int]) -> None:
        """Note the versions with which a server may answer when it is started again.

        Raises:
            OSError: They cannot be written.
        """
        self._accepted.mkdir(exist_ok=True)
        new = self._accepted.with_name(f"{_ACCEPTED}.new")
        new.write_text(" ".join(map(str, versions)))
        new.rename(self._accepted / name)

    def accepted(self, name: str) -> list[int]:
        """The versions of a model that were accepted last. Empty if none ever was."""
        path = self._accepted / name
        return [int(word) for word in path.read_text().split()] if path.is_file() else []

    def restore(self, folder: Path) -> None:
        """Show a model with the versions that were accepted last, or hide it if none ever was.

        If they were removed from the repository, it is shown as its folder is.

        Raises:
            OSError: The entry cannot be written, or the folder cannot be read.
            ValueError: The config of the version is not a config.
        """
        accepted = self.accepted(folder.name)
        if not accepted:
            self.hide(folder.name)
        elif set(accepted) <= set(taken_numbers(folder)):
            self.pin(folder, accepted)
        else:
            self.show(folder)

    def names(self) -> list[str]:
        """The names of the models that are shown."""
        return sorted(entry.name for entry in self._models.iterdir())

    def has_read(self, folder: Path) -> bool:
        """Whether a model has a config of its own that says the same as that of its folder.

        The version policy does not count.
        """
        entry = self._models / folder.name
        try:
            if not self._is_ours(entry.readlink()):
                return False
            configs = read_config(entry), read_config(folder)
        except (OSError, ValueError):
            return False
        for config in configs:
            config.name = folder.name
            config.ClearField("version_policy")
        return configs[0] == configs[1]

    def is_complete(self) -> bool:
        """Whether the config of every model that is shown names its input and its output."""
        try:
            configs = [read_config(entry) for entry in self._models.iterdir()]
        except (OSError, ValueError):  # the server will say what is wrong
            return False
        return all(config.input and config.output for config in configs)

    def hide(self, name: str) -> None:
        """Remove the entry of a model."""
        self._forget(name)
        (self._models / name).unlink(missing_ok=True)

    @property
    def _accepted(self) -> Path:
        return self._pinned.with_name(_ACCEPTED)

    def _is_ours(self, target: Path) -> bool:
        return self._pinned in target.parents

    def _enter(self, name: str, target: Path) -> None:
        before = self._models / name
        old = before.readlink() if before.is_symlink() else None
        new = self._pinned.with_name(f"{self._pinned.name}.new")
        new.unlink(missing_ok=True)
        new.symlink_to(target)
        new.rename(before)
        if old is not None:
            self._remove(old)

    def _forget(self, name: str) -> None:
        entry = self._models / name
        if entry.is_symlink():
            self._remove(entry.readlink())

    def _remove(self, target: Path) -> None:
        """Remove a folder of ours that no entry leads to any more."""
        if self._is_ours(target):
            shutil.rmtree(target.parent, ignore_errors=True)
