/* What a binary in a forged dist folder might try. PORT is a listener of the test. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

static void tell(const char *what, int result)
{
    printf("%s %s\n", what, result < 0 ? "refused" : "DONE");
}

int main(int argc, char **argv)
{
    if (argc > 1 && argv[1][0] == 'h') { /* hang, away from whoever waits */
        setsid();
        for (;;)
            sleep(3602);
    }

    struct sockaddr_in to = {AF_INET, htons(PORT), {htonl(0x7f000001)}};
    tell("read", open("/etc/passwd", O_RDONLY));
    tell("see", open("/proc/1/cmdline", O_RDONLY));
    tell("write-usr", open("/usr/lib/x", O_CREAT | O_WRONLY, 0644));
    tell("write-root", open("/x", O_CREAT | O_WRONLY, 0644));
    tell("connect", connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&to, sizeof to));
    tell("chroot", chroot("/usr"));
    fflush(stdout);
    if (fork() == 0) {
        setsid();
        close(1);
        close(2);
        sleep(3602);
    }
    return 0;
}
