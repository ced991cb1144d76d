"""The page of `diffaug app`, on Gradio (extra ``app``). It needs no connection and sends nothing out.

pictures.py  reads pictures that strangers send
models.py    the networks and classifiers that all users share, and which of them fit a picture
imagenet.py  finds a classifier for photos among what is installed
compute.py   what is computed with them
markup.py    the parts of the page that are plain HTML
style.py     how the page looks
results.py   the results of one picture, as HTML and sentences
page.py      the components, and which one fills which
server.py    serves the page
"""
