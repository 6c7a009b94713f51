"""Hospital data of every kind, brought into one form: `load.load` reads a data binding into a `dataset.Dataset`."""
