"""The page of `diffaug app`, on Gradio (extra ``app``). It needs no connection and sends nothing out.

pictures.py  reads pictures that strangers send
compute.py   the networks that all users share, and what is computed with them
markup.py    the parts of the page that are plain HTML
page.py      the components, and which one fills which
server.py    serves the page
"""
