"""`report/index.html`, a run on one page that works offline.

`facts` reads what the run recorded, `slices` the volume, `features` and `reconstructions` ask the model; `sections`,
`viewer` and `gallery` turn that into HTML (`markup`), `template` has the page's style and script, `write` puts it
together, and `record` knows which files in `report/` are ours.
"""
