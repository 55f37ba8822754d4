"""The option of every command that draws a picture to a file."""

from typing import Annotated

import typer

from megachar.base.pictures import PictureFormat

Format = Annotated[
    PictureFormat, typer.Option("--format", help="Of the picture; pdf and svg, for print, keep text and lines as such.")
]
