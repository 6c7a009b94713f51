"""A study of scikit-learn's handwritten digits as a table of pixels, for benchmarks and audits."""


def digits_study(hospitals: int) -> str:
    """The study file, without privacy: 100 rounds of a softmax regression."""
    labels = [str(digit) for digit in range(10)]
    columns = ", ".join(f'{{ name = "pixel{i}", low = 0, high = 16 }}' for i in range(64))
    return f"""
[study]
name = "digits"
task = "multiclass"
labels = {labels}
[model]
name = "mlp"
sizes = {{ hidden = [] }}
[input]
modality = "table"
columns = [{columns}]
[training]
rounds = 100
[privacy]
mode = "none"
[federation]
hospitals = {hospitals}
"""
