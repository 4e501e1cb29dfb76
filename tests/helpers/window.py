"""Use the napari widget as a person does: by what is written on its parts."""

from __future__ import annotations

from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QCheckBox,
    QComboBox,
    QLabel,
    QLineEdit,
    QPushButton,
)

from napari_swin2sr.plugin.widget import SuperResolutionWidget


def opened(viewer, wait_until):
    """Return a docked widget that has read its models and preferences."""
    widget = SuperResolutionWidget(viewer)
    viewer.window.add_dock_widget(widget, name="Super-resolution")
    wait_until(lambda: widget.findChild(QAbstractButton, "default") is not None)
    return widget


def pick(widget, name):
    """Press the radio button of a mode or a model."""
    widget.findChild(QAbstractButton, name).click()


def tick(widget, text, on=True):
    """Set a checkbox."""
    (box,) = (b for b in widget.findChildren(QCheckBox) if b.text() == text)
    box.setChecked(on)


def editor(widget, name):
    """Return the editor of an option, or of the layer, target or an axis."""
    return widget.findChild((QComboBox, QLineEdit), name)


def enter(widget, name, text):
    """Choose or type a value."""
    part = editor(widget, name)
    if isinstance(part, QComboBox):
        assert part.findText(text) >= 0
        part.setCurrentText(text)
        part.activated.emit(part.currentIndex())
    else:
        part.setText(text)
        part.textEdited.emit(text)


def axes(widget):
    """Return the letters in the table of axes."""
    return "".join(box.currentText() for box in axis_boxes(widget))


def axis_boxes(widget):
    """Return the lists in the table of axes, in the order of the axes."""
    found = widget.findChildren(QComboBox)
    boxes = [b for b in found if b.accessibleName().startswith("Axis ")]
    return [b for b in boxes if not b.isHidden()]


def button(widget, text):
    """Return the button that says so."""
    (found,) = (b for b in widget.findChildren(QPushButton) if b.text() == text)
    return found


def press(widget, text):
    """Press a button or menu entry as a person does: one that is off does nothing."""
    QTest.qWait(200)
    for menu in [b.menu() for b in widget.findChildren(QPushButton) if b.menu()]:
        for action in menu.actions():
            if action.text() == text:
                action.trigger()
                return
    button(widget, text).click()


def texts(widget):
    """Return all that the widget says, after what was last done to it."""
    QTest.qWait(250)
    labels = [w for w in widget.findChildren(QLabel) if w.isVisibleTo(widget)]
    return "\n".join(label.text() for label in labels)


def close_dock(viewer, widget):
    """Do what the x of a dock widget does."""
    gone = []
    widget.destroyed.connect(lambda: gone.append(True))
    viewer.window.remove_dock_widget(widget)
    QTest.qWait(100)
    assert gone, "nothing is left of it"
