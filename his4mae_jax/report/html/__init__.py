"""`report/index.html`, a run on one page that works offline.

`facts` reads what the run recorded, `slices` the volume, `sections` turns both into HTML, `template` has the page's
style and script, `write` puts the page into the workdir.
"""
