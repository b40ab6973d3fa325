"""What a format has no use for is refused: an option that is passed over would be believed."""

from dataclasses import fields

from storage.files.contract import BadFile, ReadOptions, WriteOptions


def only(options: ReadOptions, *taken: str, of: str) -> None:
    """Raises BadFile where an option besides those is given."""
    for field in fields(ReadOptions):
        if field.name not in taken and getattr(options, field.name) != field.default:
            raise BadFile(f"{of}: {field.name} means nothing here")


def plain(options: WriteOptions, *compressions: str, of: str) -> None:
    """Raises ValueError for any other compression than those, or none."""
    if options.compression is not None and options.compression not in compressions:
        offered = " or ".join(compressions) or "no compression"
        raise ValueError(f"{of}: {options.compression!r} is not offered, but {offered}")
