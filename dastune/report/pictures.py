"""The pictures of policies in a study's folder, as a page can hold them. A folder may come from anybody."""

import base64
import struct

from dastune.errors import UserError
from dastune.folder import StudyFolder

MOST_BYTES = 300_000
LARGEST_PX = 4000  # a small file can hold a huge picture
_START = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"


def picture_url(folder: StudyFolder, search_id: str) -> str | None:
    """Return the data: URL of the picture of what a search found; None where there is none.

    Raises:
        UserError: what is there is no PNG of MOST_BYTES at most; says so in words that follow a colon.
    """
    try:
        path = folder.picture(search_id)
    except UserError:
        return None  # no name that a picture has
    fault = f"its picture is no PNG of at most {MOST_BYTES // 1000} kB and is not shown"
    try:
        if path.is_symlink() or folder.pictures.is_symlink() or not path.is_file():
            return None
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise UserError(fault) from error
    if len(content) > MOST_BYTES or not content.startswith(_START) or len(content) < len(_START) + 8:
        raise UserError(fault)
    if max(struct.unpack_from(">II", content, len(_START))) > LARGEST_PX:
        raise UserError(fault)
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"
