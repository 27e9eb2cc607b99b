"""From clusters to organelles: the user names clusters in clusters.yaml, and volumes by name are written from that.

`clusters_file` reads and writes clusters.yaml, `measure` describes each cluster, `stage` is what the segment and name
stages do, `truth` takes names over from scores, `organelles` writes the volumes. Nothing here needs JAX or a model.
"""
