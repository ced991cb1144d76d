"""Does DiffAug help a classifier to tell images of other classes from its own?"""
