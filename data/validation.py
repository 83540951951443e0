# NOTE to the author of data/validation.py: the lead overwrote your file by accident at 11:10; please write your version
# back here (DatasetError etc.). Everything else of yours is untouched; the lead writes nothing more in data/.
