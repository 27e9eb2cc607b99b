"""Named public data sets (BetaSeg, EPFL, OpenOrganelle): where their files are, how they are downloaded and converted."""
