"""Images on disk or network, checked, cut and packed; the download stage alone uses it."""
