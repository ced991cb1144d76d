"""Random calls of everything public, each judged by one rule: a right result, or a clear error of the package's own.

A call is Python code as a string, such as ``DiffAug(plain, p=0.5)(pixels((2, 3, 16, 16), "uint8"))``. So a failing call
can be copied and run after ``from tests.properties.names import *``.

names.py         the names that the code may use: small networks and classifiers, builders of images
values.py        Value: a piece of code, and whether it must be taken or refused; the calls made of them
images.py        strategies: images as people have them, and the samples that hold them
arguments.py     good and bad values of arguments
expectations.py  whether an image, a sample or labels must be taken or refused
checks.py        whether a result has the right form
judge.py         runs one call and gives the verdict
calls_*.py       the calls of each part of the package; all_calls.py has all of them
test_judge.py    calls whose verdict is known
test_properties.py  more than a thousand calls in every test run
__main__.py      many thousand calls by hand, with the counts
"""
