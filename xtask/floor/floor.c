/* The floor of `cargo xtask bench`: the least that a program can do to mount an overlay.
 * No libc, static, one mount(2): `floor SOURCE TARGET -o DATA`. x86-64 only. */

#define SYS_mount 165
#define SYS_exit 60

static long call(long number, const void *a, const void *b, const void *c, long d, const void *e)
{
	register long r10 __asm__("r10") = d;
	register const void *r8 __asm__("r8") = e;
	long result;
	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8)
			 : "rcx", "r11", "memory");
	return result;
}

__attribute__((noreturn, used)) static void start(const long *stack)
{
	const char *const *argv = (const char *const *)(stack + 1);
	long status = 1;
	if (stack[0] == 5)
		status = call(SYS_mount, argv[1], argv[2], "overlay", 0, argv[4]) ? 32 : 0;
	for (;;)
		call(SYS_exit, (const void *)status, 0, 0, 0, 0);
}

__asm__(".globl _start\n_start:\n\tmov %rsp, %rdi\n\tand $-16, %rsp\n\tcall start\n");
