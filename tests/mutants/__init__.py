"""A mutation tester: it puts small bugs into a copy of the project and runs the tests on them.

`make mutants` runs it. A bug that no test notices is printed as a survivor. `equivalent.toml` lists
the mutants that cannot be noticed, with the reason, and the score leaves them out.

The changes to the source are those of mutmut (its operators work on libcst's syntax trees), and two
more: a statement that only calls something is removed, and the condition of an `if` or a `while` is
negated. mutmut's own runner is not used: it switches mutants inside one process with a wrapper
around each function, which leaves out module constants, decorated functions and the programs that
tests start. Here the mutant is a file on disk, so that a program that a test starts has it too.
"""
