"""Named public data sets (BetaSeg, EPFL, OpenOrganelle): their files, downloading, conversion."""
