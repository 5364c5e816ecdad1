"""Progress bars, and values as HTML in a notebook.

Only ``screen`` and ``bars`` touch a screen; nothing here sends a request.  All text that comes
from a server or a file is escaped and bounded.  No module is imported before it is needed; tqdm,
IPython and Pillow are optional.

Modules:
    screen: The kind of screen that the program has.
    bars: A progress bar for each kind of screen.
    cells: A record of what the running cell of a notebook has shown already.
    html: Pieces of HTML.
    tables: Tables, as text and as HTML.
    thumbnails: Small versions of pictures.
    usage: How busy a machine is, as text and as meters.
    transfers: Bars for large files that are sent or received.
"""
