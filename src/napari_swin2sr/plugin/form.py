"""The parts that the widget is made of; each shows and changes one thing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from psygnal import Signal
from qtpy.QtCore import Qt
from qtpy.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QFormLayout,
    QGraphicsOpacityEffect,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QPushButton,
    QRadioButton,
    QSizePolicy,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from napari_swin2sr.plugin.choices import (
    ADVANCED,
    AUTOMATIC,
    CHOICES,
    GIVEN,
    Choices,
    ModelChoice,
)

_AXES = {
    "T": "time",
    "C": "channels, each super-resolved on its own",
    "Z": "depth, each plane super-resolved on its own",
    "Y": "rows",
    "X": "columns",
    "S": "RGB samples, super-resolved together",
}
_LABELS = {"dtype": "Type", "nodata": "No data"}


class OptionsForm(QWidget):
    """One editor per advanced option, with its help as tooltip."""

    changed = Signal()

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._choices = choices
        form = QFormLayout(self)
        form.setContentsMargins(0, 0, 0, 0)
        form.setRowWrapPolicy(form.RowWrapPolicy.WrapLongRows)
        form.setFieldGrowthPolicy(form.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        self._editors: dict[str, QComboBox | QLineEdit] = {}
        for option in ADVANCED:
            name, meta = option.name, option.metadata
            unit = f" ({meta['unit']})" if meta["unit"] else ""
            label = _LABELS.get(name, name.replace("_", " ").capitalize()) + unit
            empty = "none" if name == "nodata" else AUTOMATIC
            self._add(form, label, name, wrapped(meta["help"]), empty)
            if name == "value_range":
                help_ = wrapped("LOW, HIGH; one pair per channel where they differ")
                self._add(form, "", "range_text", help_, "low, high")
        self.show_choices()

    def _add(
        self, form: QFormLayout, label: str, name: str, help_: str, empty: str
    ) -> None:
        editor: QComboBox | QLineEdit
        if name in CHOICES:
            editor = narrow(QComboBox())
            editor.addItems(CHOICES[name])
            editor.currentTextChanged.connect(self._take)
        else:
            editor = QLineEdit()
            editor.setPlaceholderText(empty)
            editor.textChanged.connect(self._take)
        editor.setObjectName(name)
        editor.setToolTip(help_)
        editor.setAccessibleName(label)
        self._editors[name] = editor
        form.addRow(label, editor)

    def show_choices(self) -> None:
        """Show what is chosen."""
        for name, editor in self._editors.items():
            editor.blockSignals(True)
            text = self._choices.fields.get(name, "")
            if isinstance(editor, QComboBox):
                editor.setCurrentText(text)
            else:
                editor.setText(text)
            editor.blockSignals(False)
        self._take()

    def _take(self, *_: Any) -> None:
        for name, editor in self._editors.items():
            self._choices.fields[name] = (
                editor.currentText() if isinstance(editor, QComboBox) else editor.text()
            )
        given = self._choices.fields["value_range"] == GIVEN
        self._editors["range_text"].setVisible(given)
        self.changed.emit()


class ModelPicker(QWidget):
    """The factor first, then the models that have it, one line about each."""

    changed = Signal()

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self._choices = choices
        self._models: dict[str, ModelChoice] = {}
        self._all = False
        self._factors, self._names = QButtonGroup(self), QButtonGroup(self)
        self._row, self._list = QHBoxLayout(), QVBoxLayout()
        self._more = push(
            "More models...", "Models that are downloaded on first use", self._show_all
        )
        box = column(self)
        box.addLayout(self._row)
        box.addLayout(self._list)
        box.addWidget(self._more, 0, Qt.AlignmentFlag.AlignLeft)
        self._factors.idClicked.connect(self._factor_clicked)
        self._names.buttonClicked.connect(self._name_clicked)

    @property
    def model(self) -> ModelChoice | None:
        """What is known of the chosen model; None before the list has been read."""
        return self._models.get(self._choices.model)

    def fill(self, models: Sequence[ModelChoice]) -> None:
        """Show a list of models, and choose the one that was chosen before."""
        self._models = {model.name: model for model in models}
        if self._choices.model not in self._models:
            self._choices.model = models[0].name
        self._show()

    def choose(self, name: str) -> None:
        """Choose a model by name."""
        self._choices.model = name
        self._show()
        self.changed.emit()

    def _show(self) -> None:
        chosen = self.model
        assert chosen is not None
        self._all |= not chosen.offered
        offered = [m for m in self._models.values() if m.offered or self._all]
        _clear(self._row, self._factors)
        _clear(self._list, self._names)
        factors = {model.factor for model in offered}
        for factor in sorted(factors, key=lambda factor: (factor == 1, factor)):
            text = "Same size" if factor == 1 else f"×{factor}"
            tooltip = (
                "Restored, not enlarged"
                if factor == 1
                else f"{factor} times as many pixels per side"
            )
            button = _radio(text, tooltip, factor == chosen.factor)
            self._factors.addButton(button, factor)
            self._row.addWidget(button)
        self._row.addStretch()
        for model in offered:
            if model.factor != chosen.factor:
                continue
            button = _radio(model.label, model.about, model is chosen)
            button.setObjectName(model.name)
            about = note(model.purpose, "about", indent=22)
            about.setToolTip(wrapped(model.about))
            faint(about)
            self._names.addButton(button)
            self._list.addWidget(button)
            self._list.addWidget(about)
        self._more.setVisible(len(offered) < len(self._models))

    def _show_all(self, *_: Any) -> None:
        self._all = True
        self._show()

    def _factor_clicked(self, factor: int) -> None:
        if self.model is not None and self.model.factor != factor:
            have = [m for m in self._models.values() if m.factor == factor]
            self.choose(have[0].name)

    def _name_clicked(self, button: Any) -> None:
        self.choose(button.objectName())


class AxesTable(QWidget):
    """Which axis is what: a size and a letter per axis of the image, editable."""

    changed = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._boxes: list[QComboBox] = []
        self._grid = QGridLayout(self)
        self._grid.setContentsMargins(0, 0, 0, 0)
        self._grid.setHorizontalSpacing(4)

    @property
    def axes(self) -> str:
        """One letter per axis."""
        return "".join(box.currentText() for box in self._boxes)

    def show_axes(self, shape: Sequence[int], axes: str) -> None:
        """Show the axes of an image."""
        self._boxes = []
        empty(self._grid)
        letters = axes if len(axes) == len(shape) else " " * len(shape)
        for place, (size, letter) in enumerate(zip(shape, letters, strict=True)):
            box = QComboBox()
            box.addItems([*_AXES, " "])
            for number, about in enumerate(_AXES.values()):
                box.setItemData(number, about, Qt.ItemDataRole.ToolTipRole)
            box.setCurrentText(letter)
            box.setMinimumContentsLength(1)
            box.setSizeAdjustPolicy(
                box.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
            )
            policy = box.sizePolicy()
            policy.setHorizontalPolicy(QSizePolicy.Policy.Ignored)
            box.setSizePolicy(policy)
            box.setToolTip(f"What axis {place} is: {_AXES.get(letter, 'not known')}")
            box.setAccessibleName(f"Axis {place}")
            box.setProperty("letter", letter)
            box.currentTextChanged.connect(self._swap)
            head = QLabel(f"{size:,}")
            head.setAlignment(Qt.AlignmentFlag.AlignCenter)
            self._grid.addWidget(head, 0, place)
            self._grid.addWidget(box, 1, place)
            self._boxes.append(box)

    def _swap(self, letter: str) -> None:
        """Give the letter that an axis had to the one that had its new letter."""
        before = next(
            (b.property("letter") for b in self._boxes if _is_new(b, letter)), " "
        )
        for box in self._boxes:
            if box.property("letter") == letter != " ":
                box.blockSignals(True)
                box.setCurrentText(before)
                box.blockSignals(False)
        for box in self._boxes:
            box.setProperty("letter", box.currentText())
        self.changed.emit()


class Message(QWidget):
    """One sentence, and what lies behind it on demand."""

    def __init__(self) -> None:
        super().__init__()
        self._label = note("", "message")
        self._label.setMinimumHeight(0)
        self._button = QToolButton()
        self._button.setText("Details")
        self._button.setCheckable(True)
        self._button.setToolTip("What exactly happened, to be copied")
        self._details = QPlainTextEdit()
        self._details.setReadOnly(True)
        self._details.setMaximumHeight(140)
        row = QHBoxLayout()
        row.addWidget(self._label, 1)
        row.addWidget(self._button, 0, Qt.AlignmentFlag.AlignTop)
        box = column(self)
        box.addLayout(row)
        box.addWidget(self._details)
        self._button.toggled.connect(self._details.setVisible)
        self.say("")

    def say(self, text: str, details: str = "") -> None:
        """Show a sentence; details stay behind a button."""
        self._label.setText(text)
        self._details.setPlainText(details)
        self._button.setChecked(False)
        self._button.setVisible(bool(details))
        self._details.hide()
        self.setVisible(bool(text))


class Section(QWidget):
    """A title, and what belongs to it; one that folds opens by a click."""

    def __init__(self, title: str, *, folded: bool = False) -> None:
        super().__init__()
        self.content = QWidget()
        self.box = column(self.content)
        outer = column(self)
        if folded:
            button = QToolButton()
            button.setText(title)
            button.setCheckable(True)
            button.setArrowType(Qt.ArrowType.RightArrow)
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            button.setStyleSheet("QToolButton { border: none; font-weight: bold; }")
            button.toggled.connect(self._fold)
            self.button = button
            outer.addWidget(button)
            self.content.hide()
        else:
            label = QLabel(title)
            label.setStyleSheet("font-weight: bold")
            outer.addWidget(label)
        outer.addWidget(self.content)

    def _fold(self, opened: bool) -> None:
        arrow = Qt.ArrowType.DownArrow if opened else Qt.ArrowType.RightArrow
        self.button.setArrowType(arrow)
        self.content.setVisible(opened)


# -- pieces ---------------------------------------------------------------------------


def column(widget: QWidget, spacing: int = 4) -> QVBoxLayout:
    """Give a widget a column without margins."""
    box = QVBoxLayout(widget)
    box.setContentsMargins(0, 0, 0, 0)
    box.setSpacing(spacing)
    return box


def note(text: str = "", name: str = "", *, indent: int = 0) -> QLabel:
    """Return a label that breaks its lines; layers' names are no HTML."""
    label = QLabel(text)
    label.setObjectName(name)
    label.setTextFormat(Qt.TextFormat.PlainText)
    label.setWordWrap(True)
    label.setContentsMargins(indent, 0, 0, 0)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    policy = QSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Minimum)
    policy.setHeightForWidth(True)
    label.setSizePolicy(policy)
    return label


def faint(label: QLabel) -> None:
    """Let a text stand back in both themes."""
    effect = QGraphicsOpacityEffect(label)
    effect.setOpacity(0.7)
    label.setGraphicsEffect(effect)


def warning() -> QLabel:
    """Return a note that stands out in both themes."""
    label = note("", "warning")
    label.setStyleSheet("border-left: 3px solid #e0a030; padding-left: 6px;")
    return label


def push(text: str, tooltip: str, action: Callable[..., object]) -> QPushButton:
    """Return a button."""
    button = QPushButton(text)
    button.setToolTip(wrapped(tooltip))
    button.clicked.connect(action)
    return button


def narrow(box: QComboBox) -> QComboBox:
    """Let a list be narrower than its longest text."""
    box.setMinimumContentsLength(8)
    policy = box.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon
    box.setSizeAdjustPolicy(policy)
    return box


def wrapped(text: str) -> str:
    """Return a tooltip whose lines Qt breaks, as it does for rich text only."""
    return f"<qt>{text.replace('&', '&amp;').replace('<', '&lt;')}</qt>"


def _radio(text: str, tooltip: str, checked: bool) -> QRadioButton:
    button = QRadioButton(text)
    button.setToolTip(wrapped(tooltip))
    button.setChecked(checked)
    return button


def _is_new(box: QComboBox, letter: str) -> bool:
    return bool(box.currentText() == letter != box.property("letter"))


def _clear(layout: Any, group: QButtonGroup) -> None:
    for button in group.buttons():
        group.removeButton(button)
    empty(layout)


def empty(layout: Any) -> None:
    """Delete what is in a layout."""
    while (item := layout.takeAt(0)) is not None:
        if item.widget() is not None:
            item.widget().hide()
            item.widget().deleteLater()
