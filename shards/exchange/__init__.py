"""Files of other tools, read and written: coordinates and features of TRIDENT, CLAM, AtlasPatch and hs2p."""
