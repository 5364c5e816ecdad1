"""Completion in bash, zsh, fish and PowerShell: the scripts for them, and the answers to them.

Click's own scripts append a space after ``KSampler.seed=``, expand ``*`` in answers, and do not
rejoin words that bash splits at ``=`` and ``:``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import Final

from click.shell_completion import (
    BashComplete,
    CompletionItem,
    FishComplete,
    ShellComplete,
    ZshComplete,
    add_completion_class,
    split_arg_string,
)

from .decorators import paths
from .exits import one_line

#: A marker at the cursor, so that even an empty word there counts as a word.
_CURSOR: Final = "\0"
#: The default of ``COMP_WORDBREAKS`` in bash.
_BREAKS: Final = " \t\n\"'@><=;|&(:"

_BASH: Final = """\
%(complete_func)s() {
    local line type value
    COMPREPLY=()
    while IFS= read -r line; do
        type=${line%%%%,*} value=${line#*,}
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            plain)
                COMPREPLY+=("$value")
                [[ $value == *[=/] ]] && compopt -o nospace
                ;;
        esac
    done < <(env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" \\
        COMP_WORDBREAKS="$COMP_WORDBREAKS" %(complete_var)s=bash_complete \\
        "${1/#\\~/$HOME}" 2>/dev/null </dev/null)
    return 0
}

complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH: Final = """\
#compdef %(prog_name)s

%(complete_func)s() {
    local -a response plain described unfinished
    local type key descr
    (( ! $+commands[%(prog_name)s] )) && return 1

    response=("${(@f)$(env COMP_WORDS="${(pj:\\n:)words[1,CURRENT]}" \\
        %(complete_var)s=zsh_complete %(prog_name)s 2>/dev/null </dev/null)}")

    for type key descr in ${response}; do
        if [[ "$type" == "dir" ]]; then
            _path_files -/
        elif [[ "$type" == "file" ]]; then
            _path_files -f
        elif [[ "$type" != "plain" ]]; then
            continue
        elif [[ "$key" == *[=/] ]]; then
            unfinished+=("$key")
        elif [[ "$descr" == "_" ]]; then
            plain+=("$key")
        else
            described+=("$key:$descr")
        fi
    done

    (( $#described )) && _describe -V unsorted described -U
    (( $#plain )) && compadd -U -V unsorted -a plain
    (( $#unfinished )) && compadd -U -V unsorted -S '' -a unfinished
}

if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

_FISH: Final = """\
function %(complete_func)s
    set -l line (commandline -cp | string collect)
    set -l answers (env %(complete_var)s=fish_complete COMP_WORDS="$line" %(prog_name)s \\
        2>/dev/null </dev/null)
    for answer in $answers
        set -l parts (string split -m 1 "," -- $answer)
        switch $parts[1]
            case dir
                __fish_complete_directories $parts[2]
            case file
                __fish_complete_path $parts[2]
            case plain
                echo $parts[2]
        end
    end
end

complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""

_POWERSHELL: Final = """\
Register-ArgumentCompleter -Native -CommandName '%(prog_name)s' -ScriptBlock {
    param($word, $command, $cursor)
    $before = $command.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor }
    $words = @($before | ForEach-Object {
        if ($_ -is [System.Management.Automation.Language.StringConstantExpressionAst]) {
            $_.Value
        } else {
            $_.Extent.Text
        }
    }) + @($word)
    $env:COMP_WORDS = ConvertTo-Json -Compress -InputObject ([string[]]$words)
    $env:%(complete_var)s = 'powershell_complete'
    try {
        $answers = & '%(prog_name)s' 2>$null
    } finally {
        Remove-Item Env:COMP_WORDS, Env:%(complete_var)s
    }
    foreach ($answer in $answers) {
        $one = ConvertFrom-Json $answer
        if ($one.type -eq 'plain') {
            [System.Management.Automation.CompletionResult]::new(
                $one.text, $one.value, 'ParameterValue', $one.help)
        } else {
            [System.Management.Automation.CompletionCompleters]::CompleteFilename($word) |
                Where-Object { $one.type -eq 'file' -or $_.ResultType -eq 'ProviderContainer' }
        }
    }
}
"""


def register() -> None:
    """Make click use the classes of this module for their shells."""
    for shell in (_Bash, _Zsh, _Fish, _PowerShell):
        add_completion_class(shell)


class _Shell(ShellComplete):
    """A shell that asks for completions; after a failure, the answer is empty."""

    option = ""  #: The text before the value in the same word, such as ``--out=``.

    def line(self) -> str:
        """Return the command line up to the cursor."""
        return os.environ["COMP_WORDS"]

    def words(self) -> list[str]:
        """Return the words of the command line; the last, maybe empty, is at the cursor."""
        return _words(self.line())

    def complete(self) -> str:
        """Return the answer to the shell; it is empty after any failure."""
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.suppress(Exception),
        ):
            return super().complete()
        return ""

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the arguments before the word at the cursor, and that word's value up to there."""
        *words, last = self.words()
        if last.startswith("--") and "=" in last:
            name, equals, last = last.partition("=")
            words.append(name)
            self.option = name + equals
        return words[1:], last

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return completions of the whole word at the cursor, including a leading ``--out=``."""
        given = incomplete
        if args and re.match(r"--?\w", args[-1]):
            # Click would read no arguments after an option without its value.
            args, given = args[:-1], f"{args[-1]}={incomplete}"
        found = super().get_completions(args, given)
        for one in found:
            one.help = one_line(one.help) if one.help else None  # it may be a server's word
        if not self.option:
            return [one for one in found if one.type != "plain" or one.value.isprintable()]
        values = [
            value
            for one in found
            for value in ([one.value] if one.type == "plain" else paths(incomplete))
        ]
        return [CompletionItem(self.option + value) for value in values if value.isprintable()]


class _Bash(_Shell, BashComplete):
    """Bash, which replaces only the text after the last ``=`` or ``:`` of a word."""

    source_template = _BASH

    def line(self) -> str:
        """Return the command line up to the cursor."""
        line, point = os.environ.get("COMP_LINE"), os.environ.get("COMP_POINT")
        if line and point:
            return line[: int(point)]
        words = os.environ["COMP_WORDS"].split("\n")[: int(os.environ["COMP_CWORD"]) + 1]
        return re.sub(r"[\n ]([=:]+)[\n ]", r"\1", "\n".join(words))

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return the completions of the part of the word that bash replaces, quoted for it.

        Within double quotes, values with ``!`` are left out: bash would replace ``!!`` with an
        earlier command there, and no escape prevents that.
        """
        found = super().get_completions(args, incomplete)
        line = self.line()
        start, quote = _start_of_part(line, os.environ.get("COMP_WORDBREAKS", _BREAKS))
        typed = _words(line)[-1]
        before = typed.removesuffix(_words(quote + line[start:])[-1])
        return [
            CompletionItem(_quoted(one.value.removeprefix(before), quote))
            if one.type == "plain"
            else one
            for one in found
            if one.type != "plain"
            or (one.value.startswith(before) and not (quote == '"' and "!" in one.value))
        ]


class _Zsh(_Shell, ZshComplete):
    """Zsh, whose script sends the words up to the one at the cursor."""

    source_template = _ZSH


class _Fish(_Shell, FishComplete):
    """Fish, whose script sends the command line up to the cursor."""

    source_template = _FISH


class _PowerShell(_Shell):
    """PowerShell, whose script sends and gets JSON, since code pages lack letters.

    A word that goes on has no quote at its end.
    """

    name = "powershell"
    source_template = _POWERSHELL

    def words(self) -> list[str]:
        """Return the words of the command line, the last without its quotes."""
        *words, last = json.loads(self.line())
        found = re.search(r"(?:^|=)(['\"])", last)
        if found is not None:
            quote = found[1]
            text = last[found.end() :].removesuffix(quote).replace(quote * 2, quote)
            last = last[: found.start(1)] + text
        return [*words, last]

    def get_completions(self, args: list[str], incomplete: str) -> list[CompletionItem[str]]:
        """Return the completions but those that a program could get as several words.

        PowerShell before 7.3 passes ``"`` on as it is, and puts words with spaces into double
        quotes: a backslash at their end would escape the closing one.
        """
        return [
            one
            for one in super().get_completions(args, incomplete)
            if one.type != "plain"
            or ('"' not in one.value and not _quoted_for_powershell(one.value).endswith("\\'"))
        ]

    def format_completion(self, item: CompletionItem[str]) -> str:
        """Return a completion as a line of JSON."""
        shown = {"type": item.type, "text": _quoted_for_powershell(item.value), "value": item.value}
        return json.dumps({**shown, "help": item.help or item.value})


def _words(line: str) -> list[str]:
    """Split a command line as a shell does; the last word, maybe empty, is at the cursor."""
    *words, last = split_arg_string(line + _CURSOR)
    return [*words, last.removesuffix(_CURSOR)]


def _start_of_part(line: str, breaks: str) -> tuple[int, str]:
    """Return the start of the part of a line that bash completes, and the open quote, or ``""``."""
    start, outside, quote, is_escaped = 0, 0, "", False
    for at, char in enumerate(line):
        if is_escaped:
            is_escaped = False
        elif char == "\\" and quote != "'":
            is_escaped = True
        elif quote:
            if char == quote:
                start, quote = outside, ""
        elif char in "'\"":
            outside, start, quote = start, at + 1, char
        elif char in breaks or char.isspace():
            start = at + 1
    return start, quote


def _quoted(value: str, quote: str) -> str:
    """Escape a text for bash, within an open quote or, if ``quote`` is empty, outside of quotes."""
    if quote == "'":
        return value.replace("'", r"'\''")
    special = r'(["\\$`])' if quote else r"([\s\\'\"`$&|;<>()*?\[\]{}!#])"
    return re.sub(special, r"\\\1", value)


def _quoted_for_powershell(value: str) -> str:
    """Put a text into single quotes if need be; PowerShell takes curly ones for straight ones."""
    if re.fullmatch(r"[\w./:\\=+-]+", value, re.ASCII):
        return value
    text = re.sub("(['\u2018-\u201b])", r"\1\1", value)
    return f"'{text}" if value.endswith(("=", "/")) else f"'{text}'"
