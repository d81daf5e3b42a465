"""What a soak test looks for."""


class Finding(Exception):
    """Something that olmo-pipe must not do. `kind` is a word or two, for counting."""

    def __init__(self, kind, text, result=None):
        super().__init__(text)
        self.kind, self.text, self.result = kind, text, result

    def __str__(self):
        shown = f"{self.kind}: {self.text}"
        if self.result is not None:
            printed = self.result.text.strip().splitlines()[-15:]
            shown += "".join(f"\n    | {line[:300]}" for line in printed)
        return shown
