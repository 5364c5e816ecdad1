"""What people see: bars while a run goes on, and values as HTML in a notebook.

Pure, but for the screen: it is handed numbers, texts and pictures, and sends no request.  All
that comes from a server or a file is escaped and bounded.  Nothing here is imported before it is
needed; tqdm, IPython and Pillow are optional.
"""
