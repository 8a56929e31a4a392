"""``python -m mixvec.data.readers`` prints the forms of data as a Markdown table."""

from .forms import table

if __name__ == "__main__":
    print(table())
