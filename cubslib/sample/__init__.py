"""Two small drawn data sets, in the layouts of the official ones, for where no download is wanted.

`layouts` draws a set's folder, `cars` the classes of cars, `painting` any picture.
"""
