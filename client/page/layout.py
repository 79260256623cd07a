"""The page itself: what one sees on it, and what happens when something on it is used."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from seresnext101_triton.client.errors import ClientError, ModelUnavailable
from seresnext101_triton.client.images import sample_photographs
from seresnext101_triton.client.page import rendering
from seresnext101_triton.client.page.asking import Target, classify_files, usable_models
from seresnext101_triton.client.page.uploads import MOST_FILES, Uploads

TITLE = "SE-ResNeXt101-32x4d on Triton"
STYLE = Path(__file__).with_name("page.css")
_NOBODY = "no second model"
_HINT = "Drop pictures, use the camera, or try the sample photographs."
# Fonts of the system. Gradio's own themes load theirs from another host.
_FONTS = ["system-ui", "sans-serif"]
_FIXED_FONTS = ["ui-monospace", "monospace"]


def theme() -> gr.themes.Base:
    """Gradio's default theme with the fonts of the system."""
    return gr.themes.Default(font=_FONTS, font_mono=_FIXED_FONTS)


class Page:
    """What the page does. Each method is one event on it.

    Args:
        target: The server that is asked.
        uploads: The uploaded files.
    """

    def __init__(self, target: Target, uploads: Uploads) -> None:
        self._target, self._uploads = target, uploads

    def load(self, first: str | None, second: str | None) -> tuple[Any, Any, str]:
        """List the models again. The two chosen ones stay chosen if they are still served.

        Returns:
            The two lists, and an error as HTML, which is empty if there is none.
        """
        try:
            models = self._models()
        except ClientError as error:
            return gr.skip(), gr.skip(), rendering.sentence(str(error))
        first = first if first in models else models[0]
        named = self._target.models[1:2]
        second = second if second in models else next(iter(named), _NOBODY)
        return (
            gr.Dropdown(models, value=first),
            gr.Dropdown([_NOBODY, *models], value=second),
            "",
        )

    def _models(self) -> list[str]:
        """The models that the page offers, at least one."""
        models = usable_models(self._target)
        if not models:
            raise ModelUnavailable(f"{self._target.url} serves no model that this page can use")
        return models

    def ask(self, files: Sequence[str] | str | None, *models: str | None) -> Iterator[str]:
        """Classify files, and show each answer as soon as it is there."""
        paths = [Path(name) for name in ([files] if isinstance(files, str) else files or ())]
        chosen = list(dict.fromkeys(name for name in models if name and name != _NOBODY))
        if not paths:
            yield rendering.hint(_HINT)
        elif len(paths) > MOST_FILES:
            yield rendering.sentence(
                f"{len(paths)} pictures are too many for the page: drop at most {MOST_FILES}. The "
                "command `python -m client bulk` takes any number."
            )
        else:
            yield rendering.answers([], {}, len(paths))
            try:
                yield from self._answers(paths, chosen or self._models()[:1])
            except ClientError as error:
                yield rendering.sentence(str(error))

    def _answers(self, paths: Sequence[Path], models: Sequence[str]) -> Iterator[str]:
        done = []
        for picture in classify_files(paths, models, self._target):
            done.append(picture)
            yield rendering.answers(done, self._uploads.seconds, len(paths) - len(done))

    def blocks(self) -> gr.Blocks:
        """The page as Gradio's blocks."""
        with gr.Blocks(title=TITLE, analytics_enabled=False, fill_width=True) as page:
            gr.Markdown(f"# {TITLE}")
            with gr.Row():
                first = gr.Dropdown([], label="Model", min_width=240)
                second = gr.Dropdown([_NOBODY], label="Compare with", min_width=240)
            server = gr.HTML("", elem_id="server", apply_default_css=False)
            with gr.Row():
                with gr.Column(scale=1, min_width=300):
                    with gr.Tab("Files"):
                        files = gr.File(file_count="multiple", label="Pictures", elem_id="pictures")
                    with gr.Tab("Camera"):
                        camera = gr.Image(
                            sources=["webcam"],
                            type="filepath",
                            image_mode=None,  # the file stays as the browser sent it
                            label="Camera",
                            elem_id="camera",
                            buttons=[],
                            webcam_options=gr.WebcamOptions(mirror=False),
                        )
                    samples = gr.Button("Try the sample photographs")
                    reload = gr.Button("Reload the models")
                with gr.Column(scale=3, min_width=300):
                    shown = gr.HTML(
                        rendering.hint(_HINT), elem_id="answers", apply_default_css=False
                    )
            asked = gr.State([])
            models, private = [first, second], {"api_visibility": "private"}

            def classify(event: Any, source: gr.components.Component) -> None:
                """Ask on an event, and remember the pictures for another choice of models."""
                remembered = event(_as_list, source, asked, show_progress="hidden", **private)
                remembered.then(self.ask, [asked, *models], shown, **private)

            classify(files.change, files)
            classify(camera.input, camera)
            samples.click(_samples, None, asked, **private).then(
                self.ask, [asked, *models], shown, **private
            )
            gr.on([first.input, second.input], self.ask, [asked, *models], shown, **private)
            gr.on([page.load, reload.click], self.load, models, [*models, server], **private)
        return page


def _as_list(files: Sequence[str] | str | None) -> list[str]:
    return [files] if isinstance(files, str) else list(map(str, files or ()))


def _samples() -> list[str]:
    return list(map(str, sample_photographs()))
