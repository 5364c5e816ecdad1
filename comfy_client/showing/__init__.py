"""Progress bars, and values as HTML in a notebook.

Pure, but for the screen: it is handed numbers, texts and pictures, and sends no request.  All
that comes from a server or a file is escaped and bounded.  Nothing here is imported before it is
needed; tqdm, IPython and Pillow are optional.

``screen``, ``cells``
    Where the program runs, and what the cell of a notebook has shown.
``html``, ``thumbnails``
    Pieces of HTML, and small pictures.
``bars``
    A bar for each kind of screen.
"""
